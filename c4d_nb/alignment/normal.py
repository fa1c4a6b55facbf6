"""Normal equations between frames: what moves each, and how the objectives pull (steps 1 and 3 of ``fast``).

A frame has 8 freedoms: a similarity of its camera and points in the world (3 of translation, 3 of rotation, 1 of
scale) and log f. An objective between frames n and m, such as CMA or CTS, adds a quadratic in the 16 of both.
"""

import roma
import torch
from jaxtyping import Float, Int
from torch import Tensor

SCALE, FOCAL, FREEDOMS = 6, 7, 8


class NormalEquations:
    """``z H z / 2 - g z`` of the frames' freedoms z."""

    def __init__(self, t: int):
        self.matrix = torch.zeros(t, t, FREEDOMS, FREEDOMS, dtype=torch.float64)
        self.pull = torch.zeros(t, FREEDOMS, dtype=torch.float64)

    def add_frames(self, gram: Float[Tensor, "t c_plus_1 c_plus_1"], freedoms: list[int]) -> None:
        """``gram`` has products of the derivatives by ``freedoms`` and, last, of what they should sum to."""
        block = self.matrix.diagonal(dim1=0, dim2=1).permute(2, 0, 1)
        index = torch.tensor(freedoms)
        block[:, index[:, None], index] += gram[:, :-1, :-1]
        self.pull[:, index] += gram[:, :-1, -1]

    def add_edges(self, edges: Int[Tensor, "e 2"], gram: Float[Tensor, "e 17 17"]) -> None:
        """The same between the frames n and m of every edge: 8 freedoms of n, 8 of m, and the target."""
        t, both = len(self.pull), edges.unbind(-1)
        cells = self.matrix.view(t * t, FREEDOMS, FREEDOMS)
        parts = slice(0, FREEDOMS), slice(FREEDOMS, 2 * FREEDOMS)
        for rows, n in zip(parts, both, strict=True):
            self.pull.index_add_(0, n, gram[:, rows, -1])
            for columns, m in zip(parts, both, strict=True):
                cells.index_add_(0, n * t + m, gram[:, rows, columns])

    def copy(self) -> "NormalEquations":
        return self.after(torch.zeros_like(self.pull))

    def after(self, step: Float[Tensor, "t 8"]) -> "NormalEquations":
        """What remains to be done when ``step`` has been taken."""
        found = NormalEquations(len(step))
        found.matrix = self.matrix.clone()
        found.pull = self.pull - torch.einsum("tuij,uj->ti", self.matrix, step)
        return found

    def solve(self, own: Float[Tensor, "t 8 c"], common: Float[Tensor, "t 8 k"]) -> Float[Tensor, "t 8"]:
        """The best step: of each frame a combination of its ``own`` columns, of all a combination of the ``common``
        ones. What nothing determines stays."""
        (t, _, c), k = own.shape, common.shape[-1]
        across = torch.einsum("tuij,ujk->tik", self.matrix, common)
        matrix = self.pull.new_zeros(t * c + k, t * c + k)
        matrix[: t * c, : t * c] = (own.mT[:, None] @ self.matrix @ own).permute(0, 2, 1, 3).reshape(t * c, t * c)
        matrix[: t * c, t * c :] = (own.mT @ across).reshape(t * c, k)
        matrix[t * c :, : t * c] = matrix[: t * c, t * c :].T
        matrix[t * c :, t * c :] = torch.einsum("tia,tib->ab", common, across)
        pull = torch.cat([(own.mT @ self.pull[..., None]).reshape(-1), torch.einsum("tik,ti->k", common, self.pull)])
        size = matrix.diagonal()
        size += 1e-7 * size + 1e-12 * size.max().clamp(min=1e-30)
        step = torch.linalg.solve(matrix, pull)
        return (own @ step[: t * c].reshape(t, c, 1))[..., 0] + common @ step[t * c :]


def columns(t: int, freedoms: list[int]) -> Float[Tensor, "t 8 c"]:
    """``freedoms`` as they are, of each frame."""
    return torch.eye(FREEDOMS, dtype=torch.float64)[:, freedoms].expand(t, FREEDOMS, len(freedoms))


def unit_column(centres: Float[Tensor, "t 3"]) -> Float[Tensor, "t 8 1"]:
    """All cameras' centres times a common factor, as when known poses are in other units."""
    return torch.nn.functional.pad(centres, (0, FREEDOMS - 3))[..., None]


def zoom_column(centres: Float[Tensor, "t 3"]) -> Float[Tensor, "t 8 1"]:
    """A frame's depth times a factor: a similarity about its camera."""
    zoom = torch.zeros(len(centres), FREEDOMS, 1, dtype=torch.float64)
    zoom[:, :3, 0], zoom[:, SCALE, 0] = -centres, 1
    return zoom


def smoothness_gram(world_from_cam: Float[Tensor, "t 4 4"]) -> Float[Tensor, "t_minus_1 17 17"]:
    """CTS as squares of its present weight: ``|R_t^T R_t+1 - I|_F`` is sqrt 2 times the angle, for small ones."""
    rotation, centre = world_from_cam[:, :3, :3], world_from_cam[:, :3, 3]
    turn = roma.rotmat_to_rotvec(rotation[1:] @ rotation[:-1].mT)
    step = centre[1:] - centre[:-1]
    rows = torch.zeros(len(step), 6, 2 * FREEDOMS + 1, dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    for sign, at, first in ((-1, centre[:-1], 0), (1, centre[1:], FREEDOMS)):
        rows[:, :3, first : first + 3] = sign * eye
        rows[:, :3, first + 3 : first + 6] = -sign * cross_matrix(at)
        rows[:, :3, first + SCALE] = sign * at
        rows[:, 3:, first + 3 : first + 6] = sign * eye
    rows[:, :3, -1], rows[:, 3:, -1] = -step, -turn
    length, angle = step.norm(dim=-1), turn.norm(dim=-1)
    weight = torch.stack([1 / length.clamp(min=1e-3 * length.median() + 1e-12), 2**0.5 / angle.clamp(min=1e-4)], -1)
    return rows.mT @ (weight.repeat_interleave(3, dim=1)[..., None] * rows)


def between_frames(gram: Float[Tensor, "e 10 10"]) -> Float[Tensor, "e 17 17"]:
    """CMA's products (``camera_motion_rows_pass``) by the freedoms of both frames: a similarity of the second camera
    acts as the opposite one of the points, and each frame has its focal length."""
    of = torch.zeros(10, 2 * FREEDOMS + 1, dtype=torch.float64)
    for i in range(FOCAL):
        of[i, i], of[i, FREEDOMS + i] = 1, -1
    of[7, FOCAL] = of[8, FREEDOMS + FOCAL] = 1
    of[9, -1] = -1
    return of.T @ gram @ of


def similarity_quadratics(
    moments: Float[Tensor, "*b 24"], similarity: Float[Tensor, "*#b 4 4"]
) -> tuple[Float[Tensor, "*b 7 7"], Float[Tensor, "*b 7"]]:
    """GA of one observation by the step of its pair's similarity: with J = (I, -[X]x, X), the residual ``r = sigma P x
    - X`` changes by J (pair's step - frame's step). Returns the weighted sums of J^T J and of -J^T r.
    """
    weight, q, X = moments[..., 0], moments[..., 1:4], moments[..., 4:7]
    Xq = moments[..., 7:16].unflatten(-1, (3, 3))
    XX = moments[..., [18, 19, 20, 19, 21, 22, 20, 22, 23]].unflatten(-1, (3, 3))
    linear, shift = similarity[..., :3, :3], similarity[..., :3, 3]
    r = (linear @ q[..., None])[..., 0] + shift * weight[..., None] - X
    Xr = Xq @ linear.mT + X[..., :, None] * shift[..., None, :] - XX
    eye, trace = torch.eye(3, dtype=torch.float64), XX.diagonal(dim1=-2, dim2=-1).sum(-1)
    square = torch.zeros(*weight.shape, 7, 7, dtype=torch.float64)
    square[..., :3, :3] = weight[..., None, None] * eye
    square[..., :3, 3:6] = -cross_matrix(X)
    square[..., 3:6, :3] = cross_matrix(X)
    square[..., 3:6, 3:6] = trace[..., None, None] * eye - XX
    square[..., :3, SCALE] = square[..., SCALE, :3] = X
    square[..., SCALE, SCALE] = trace
    turn = torch.stack(
        [Xr[..., 1, 2] - Xr[..., 2, 1], Xr[..., 2, 0] - Xr[..., 0, 2], Xr[..., 0, 1] - Xr[..., 1, 0]], -1
    )
    return square, -torch.cat([r, turn, Xr.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)], -1)


def cross_matrix(vector: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """``cross_matrix(a) @ b`` is a x b."""
    x, y, z = vector.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*vector.shape, 3)
