"""Compiled passes over edges and pixels: value and gradient of GA and CMA at once, nothing stored for later.

Each works through some frames and, for each, through its pixels by tiles that stay in the processor's cache. Whatever
looks at a frame (an observation, an edge from it) belongs to that frame alone, so frames go side by side in threads.
Sums run in the inputs' precision within a tile and in double precision over tiles. No function holds Python's lock.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic

TILE = 2048
"""Pixels worked on at a time: their points and gradients take 50 kB."""

compiled = njit(
    cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "nsz", "arcp", "contract"}, boundscheck=False
)


def over_frames(kernel: Any, t: int, *arguments: Any) -> None:
    """Call ``kernel(start, stop, *arguments)`` for runs of frames, as many at once as torch uses threads."""
    threads = min(torch.get_num_threads(), t)
    if threads == 1:
        return kernel(0, t, *arguments)
    cuts = [t * i // (2 * threads) for i in range(2 * threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda start, stop: kernel(start, stop, *arguments), cuts[:-1], cuts[1:]))


@intrinsic
def number(typing, stored):
    """A stored value to count with: half precision is kept as the 16 bits that it is, which numba does not know."""
    if stored != types.uint16:
        return stored(stored), lambda context, builder, signature, arguments: arguments[0]

    def widen(context, builder, signature, arguments):
        from llvmlite import ir

        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(stored), widen


@compiled
def place(pixels, depth, a, lo, hi, points):
    """World points (3, n) of the pixels lo to hi of a frame: ``points = a[:, 3] + depth a[:, :3] (u, v, 1)``."""
    u, v, d = pixels[0, lo:hi], pixels[1, lo:hi], depth[lo:hi]
    x, y, z = points[0], points[1], points[2]
    for k in range(hi - lo):
        x[k] = a[0, 3] + d[k] * (a[0, 0] * u[k] + a[0, 1] * v[k] + a[0, 2])
        y[k] = a[1, 3] + d[k] * (a[1, 0] * u[k] + a[1, 1] * v[k] + a[1, 2])
        z[k] = a[2, 3] + d[k] * (a[2, 0] * u[k] + a[2, 1] * v[k] + a[2, 2])


@compiled
def place_backward(pixels, depth, a, lo, hi, slope, grad_depth, grad_a):
    """The transpose of ``place``: from ``slope`` (3, n), d loss / d points, to those of depth and a."""
    u, v, d, g = pixels[0, lo:hi], pixels[1, lo:hi], depth[lo:hi], grad_depth[lo:hi]
    zero = depth.dtype.type(0)
    for k in range(hi - lo):
        g[k] = zero
    for c in range(3):
        s, a0, a1, a2 = slope[c], a[c, 0], a[c, 1], a[c, 2]
        su = sv = s1 = st = zero
        for k in range(hi - lo):
            g[k] += s[k] * (a0 * u[k] + a1 * v[k] + a2)
            moved = s[k] * d[k]
            su += moved * u[k]
            sv += moved * v[k]
            s1 += moved
            st += s[k]
        grad_a[c, 0] += su
        grad_a[c, 1] += sv
        grad_a[c, 2] += s1
        grad_a[c, 3] += st


@compiled
def global_alignment_pass(
    start, stop, first, edge, second, xyz_1, xyz_2, weight_1, weight_2, unit, similarity, pixels, depth, a,
    value, grad_depth, grad_a, grad_similarity,
):  # fmt: skip
    """GA of the frames start to stop; observations ``first[i]`` to ``first[i + 1]`` are those of frame i.

    Observation o is the first or ``second[o]`` member of ``edge[o]``. ``value`` (m), ``grad_depth`` (t, p), ``grad_a``
    (t, 3, 4) and ``grad_similarity`` (m, 3, 4) are added to.
    """
    p = depth.shape[1]
    points, slope = np.empty((3, TILE), depth.dtype), np.empty((3, TILE), depth.dtype)
    zero = depth.dtype.type(0)
    for i in range(start, stop):
        for lo in range(0, p, TILE):
            hi = min(p, lo + TILE)
            place(pixels, depth[i], a[i], lo, hi, points)
            x, y, z, gx, gy, gz = points[0], points[1], points[2], slope[0], slope[1], slope[2]
            slope[:] = zero
            for o in range(first[i], first[i + 1]):
                e = edge[o]
                if second[o]:
                    q, w = xyz_2[e, 3 * lo : 3 * hi], weight_2[e, lo:hi]
                else:
                    q, w = xyz_1[e, 3 * lo : 3 * hi], weight_1[e, lo:hi]
                s, m = similarity[e], unit[e]
                s00, s01, s02, s03 = s[0, 0] * m, s[0, 1] * m, s[0, 2] * m, s[0, 3]
                s10, s11, s12, s13 = s[1, 0] * m, s[1, 1] * m, s[1, 2] * m, s[1, 3]
                s20, s21, s22, s23 = s[2, 0] * m, s[2, 1] * m, s[2, 2] * m, s[2, 3]
                total = zero
                xx = xy = xz = xt = yx = yy = yz = yt = zx = zy = zz = zt = zero
                for k in range(hi - lo):
                    qx, qy, qz, qw = number(q[3 * k]), number(q[3 * k + 1]), number(q[3 * k + 2]), number(w[k])
                    ex = s00 * qx + s01 * qy + s02 * qz + s03 - x[k]
                    ey = s10 * qx + s11 * qy + s12 * qz + s13 - y[k]
                    ez = s20 * qx + s21 * qy + s22 * qz + s23 - z[k]
                    length = math.sqrt(ex * ex + ey * ey + ez * ez + NEARLY_ZERO)
                    total += qw * length
                    share = qw / length
                    ex, ey, ez = share * ex, share * ey, share * ez
                    gx[k] -= ex
                    gy[k] -= ey
                    gz[k] -= ez
                    xx += ex * qx
                    xy += ex * qy
                    xz += ex * qz
                    xt += ex
                    yx += ey * qx
                    yy += ey * qy
                    yz += ey * qz
                    yt += ey
                    zx += ez * qx
                    zy += ez * qy
                    zz += ez * qz
                    zt += ez
                value[o] += total
                g = grad_similarity[o]
                g[0, 0] += m * xx
                g[0, 1] += m * xy
                g[0, 2] += m * xz
                g[0, 3] += xt
                g[1, 0] += m * yx
                g[1, 1] += m * yy
                g[1, 2] += m * yz
                g[1, 3] += yt
                g[2, 0] += m * zx
                g[2, 1] += m * zy
                g[2, 2] += m * zz
                g[2, 3] += zt
            place_backward(pixels, depth[i], a[i], lo, hi, slope, grad_depth[i], grad_a[i])


NEARLY_ZERO = np.float32(1e-30)
"""Squared distance below which a gradient is 0; in single precision, so that it does not widen what it is added to."""


@compiled
def camera_motion_pass(
    start, stop, first, source, flow, static, b, pixels, depth, a, limit, value, count, grad_depth, grad_a, grad_b
):
    """CMA's sum and number of kept coordinates by edge, for the frames start to stop; ``source[first[i]:first[i + 1]]``
    are the edges from frame i. ``b`` (e, 3, 4) is the second image from the world."""
    p = depth.shape[1]
    points, slope = np.empty((3, TILE), depth.dtype), np.empty((3, TILE), depth.dtype)
    zero, one, half = depth.dtype.type(0), depth.dtype.type(1), depth.dtype.type(0.5)
    nearest = depth.dtype.type(1e-3)
    for i in range(start, stop):
        for lo in range(0, p, TILE):
            hi = min(p, lo + TILE)
            place(pixels, depth[i], a[i], lo, hi, points)
            x, y, z, gx, gy, gz = points[0], points[1], points[2], slope[0], slope[1], slope[2]
            u, v = pixels[0, lo:hi], pixels[1, lo:hi]
            slope[:] = zero
            for j in range(first[i], first[i + 1]):
                e = source[j]
                f, kept = flow[e, 2 * lo : 2 * hi], static[e, lo:hi]
                b00, b01, b02, b03 = b[e, 0, 0], b[e, 0, 1], b[e, 0, 2], b[e, 0, 3]
                b10, b11, b12, b13 = b[e, 1, 0], b[e, 1, 1], b[e, 1, 2], b[e, 1, 3]
                b20, b21, b22, b23 = b[e, 2, 0], b[e, 2, 1], b[e, 2, 2], b[e, 2, 3]
                total = number_kept = zero
                xx = xy = xz = xt = yx = yy = yz = yt = zx = zy = zz = zt = zero
                for k in range(hi - lo):
                    depth_m = b20 * x[k] + b21 * y[k] + b22 * z[k] + b23
                    ahead = depth_m > nearest
                    inverse = one / (depth_m if ahead else one)
                    seen = (one if ahead else zero) * (one if kept[k] else zero)
                    um = (b00 * x[k] + b01 * y[k] + b02 * z[k] + b03) * inverse
                    vm = (b10 * x[k] + b11 * y[k] + b12 * z[k] + b13) * inverse
                    eu, ev = um - u[k] - f[2 * k], vm - v[k] - f[2 * k + 1]
                    au, av = abs(eu), abs(ev)
                    ku, kv = seen * (one if au < limit else zero), seen * (one if av < limit else zero)
                    # smooth-L1 is c (|e| - c / 2) and its slope c sign(e), with c = min(|e|, 1)
                    cu, cv = (au if au < one else one), (av if av < one else one)
                    total += ku * cu * (au - half * cu) + kv * cv * (av - half * cv)
                    number_kept += ku + kv
                    eu, ev = ku * inverse * math.copysign(cu, eu), kv * inverse * math.copysign(cv, ev)
                    ew = -(eu * um + ev * vm)
                    gx[k] += b00 * eu + b10 * ev + b20 * ew
                    gy[k] += b01 * eu + b11 * ev + b21 * ew
                    gz[k] += b02 * eu + b12 * ev + b22 * ew
                    xx += eu * x[k]
                    xy += eu * y[k]
                    xz += eu * z[k]
                    xt += eu
                    yx += ev * x[k]
                    yy += ev * y[k]
                    yz += ev * z[k]
                    yt += ev
                    zx += ew * x[k]
                    zy += ew * y[k]
                    zz += ew * z[k]
                    zt += ew
                value[e] += total
                count[e] += number_kept
                g = grad_b[e]
                g[0, 0] += xx
                g[0, 1] += xy
                g[0, 2] += xz
                g[0, 3] += xt
                g[1, 0] += yx
                g[1, 1] += yy
                g[1, 2] += yz
                g[1, 3] += yt
                g[2, 0] += zx
                g[2, 1] += zy
                g[2, 2] += zz
                g[2, 3] += zt
            place_backward(pixels, depth[i], a[i], lo, hi, slope, grad_depth[i], grad_a[i])
