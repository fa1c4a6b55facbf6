"""Compiled passes of the fast solver: each reads all pairs once and leaves what a closed form needs.

Every distance ``r`` of GA is treated as the square ``r^2 / 2 |r|`` at its present length (iteratively reweighted least
squares), so that depth, poses and similarities each have a formula while the others rest.
"""

import math

import numpy as np

from c4d_nb.alignment.kernels import compiled, number, place

TILE = 512
"""Pixels worked on at a time: with what 20 observations say of them they take 120 kB."""
BEYOND = 1.5
"""Step of depth over the one that is solved for: reweighted steps fall short, and up to 2 none can do harm."""
WIDE = 2 * TILE
"""Length of a row: two numbers a pixel."""


@compiled
def ray_rows(n, origin, axes, depth, rays, weight, offset, flat):
    """Two rows a pixel, across its ray: by translation, by rotation, by log f, and the weighted mean offset."""
    forward_x, forward_y, forward_z = axes[0, 2], axes[1, 2], axes[2, 2]
    down_x, down_y, down_z = axes[0, 1], axes[1, 1], axes[2, 1]
    zero, one = depth.dtype.type(0), depth.dtype.type(1)
    for c in range(2):
        at = c * TILE
        for k in range(n):
            x, y, z, d, w = rays[0, k], rays[1, k], rays[2, k], depth[k], weight[k]
            root = math.sqrt(w)
            inverse = root / (w if w > zero else one)
            ux, uy, uz = y * down_z - z * down_y, z * down_x - x * down_z, x * down_y - y * down_x
            if c:
                ux, uy, uz = y * uz - z * uy, z * ux - x * uz, x * uy - y * ux
            length = one / math.sqrt(ux * ux + uy * uy + uz * uz)
            ux, uy, uz = ux * length, uy * length, uz * length
            px, py, pz = origin[0] + d * x, origin[1] + d * y, origin[2] + d * z
            flat[at + k] = root * ux
            flat[WIDE + at + k] = root * uy
            flat[2 * WIDE + at + k] = root * uz
            flat[3 * WIDE + at + k] = root * (py * uz - pz * uy)
            flat[4 * WIDE + at + k] = root * (pz * ux - px * uz)
            flat[5 * WIDE + at + k] = root * (px * uy - py * ux)
            flat[6 * WIDE + at + k] = root * d * (forward_x * ux + forward_y * uy + forward_z * uz)
            flat[7 * WIDE + at + k] = inverse * (offset[0, k] * ux + offset[1, k] * uy + offset[2, k] * uz)
        for row in range(8):
            flat[row * WIDE + at + n : row * WIDE + at + TILE] = zero


@compiled
def settle_depth_pass(
    start, stop, first, edge, second, xyz_1, xyz_2, weight_1, weight_2, unit, similarity, pixels, a, pull, stiffness,
    softening, axes, repeats, depth, gram, value,
):  # fmt: skip
    """Depth of each pixel where the weighted distances to all that is said of it are least, along its ray.

    What an observation says is a point at ``t`` along the ray and ``c`` beside it, so a distance is ``sqrt((d - t)^2
    |a|^2 + c^2)``. ``pull`` and ``stiffness`` (t, p) are those of CMA: it would move d by pull / stiffness. Replaces
    ``depth`` and adds to ``value`` (t), GA, and to ``gram`` (t, 8, 8): the products of the rows, reweighted, of the
    derivatives of what lies beside the ray (two directions a pixel) by a twist of the frame's points in the world (3 of
    translation, 3 of rotation) and by log f, and of what lies there. Depth answers any motion along the ray.
    """
    p = depth.shape[1]
    most = 0
    for i in range(start, stop):
        most = max(most, first[i + 1] - first[i])
    along, beside = np.empty((most, TILE), depth.dtype), np.empty((most, TILE), depth.dtype)
    weights = np.empty((most, TILE), depth.dtype)
    rays, offset, flat = (
        np.empty((3, TILE), depth.dtype),
        np.empty((3, TILE), depth.dtype),
        np.empty(8 * WIDE, depth.dtype),
    )
    rows = flat.reshape(8, WIDE)
    total, moment, before = np.empty(TILE, depth.dtype), np.empty(TILE, depth.dtype), np.empty(TILE, depth.dtype)
    zero, one = depth.dtype.type(0), depth.dtype.type(1)
    tiny, lowest, beyond = depth.dtype.type(1e-30), depth.dtype.type(-0.8), depth.dtype.type(BEYOND)
    for i in range(start, stop):
        soft = softening[i]
        for lo in range(0, p, TILE):
            hi = min(p, lo + TILE)
            u, v, d = pixels[0, lo:hi], pixels[1, lo:hi], depth[i, lo:hi]
            x, y, z = rays[0], rays[1], rays[2]
            for k in range(hi - lo):
                before[k] = d[k]
                x[k] = a[i, 0, 0] * u[k] + a[i, 0, 1] * v[k] + a[i, 0, 2]
                y[k] = a[i, 1, 0] * u[k] + a[i, 1, 1] * v[k] + a[i, 1, 2]
                z[k] = a[i, 2, 0] * u[k] + a[i, 2, 1] * v[k] + a[i, 2, 2]
            for repeat in range(repeats + 1):
                last = repeat == repeats
                sum_value = zero
                total[:], moment[:] = zero, zero
                offset[:] = zero
                fx, fy, fz = offset[0], offset[1], offset[2]
                for o in range(first[i], first[i + 1]):
                    at, far, w = along[o - first[i]], beside[o - first[i]], weights[o - first[i]]
                    e = edge[o]
                    if repeat == 0 or last:
                        if second[o]:
                            q, stored = xyz_2[e, 3 * lo : 3 * hi], weight_2[e, lo:hi]
                        else:
                            q, stored = xyz_1[e, 3 * lo : 3 * hi], weight_1[e, lo:hi]
                        s, m = similarity[e], unit[e]
                        s00, s01, s02, s03 = s[0, 0] * m, s[0, 1] * m, s[0, 2] * m, s[0, 3] - a[i, 0, 3]
                        s10, s11, s12, s13 = s[1, 0] * m, s[1, 1] * m, s[1, 2] * m, s[1, 3] - a[i, 1, 3]
                        s20, s21, s22, s23 = s[2, 0] * m, s[2, 1] * m, s[2, 2] * m, s[2, 3] - a[i, 2, 3]
                        for k in range(hi - lo):
                            qx, qy, qz = number(q[3 * k]), number(q[3 * k + 1]), number(q[3 * k + 2])
                            ex = s00 * qx + s01 * qy + s02 * qz + s03
                            ey = s10 * qx + s11 * qy + s12 * qz + s13
                            ez = s20 * qx + s21 * qy + s22 * qz + s23
                            square = x[k] * x[k] + y[k] * y[k] + z[k] * z[k]
                            t = (ex * x[k] + ey * y[k] + ez * z[k]) / square
                            ex, ey, ez = ex - t * x[k], ey - t * y[k], ez - t * z[k]
                            c2 = ex * ex + ey * ey + ez * ez
                            at[k], far[k], w[k] = t, c2, number(stored[k])
                            if last:
                                length = math.sqrt((d[k] - t) * (d[k] - t) * square + c2 + tiny)
                                sum_value += w[k] * length
                                share = w[k] / (length if length > soft else soft)
                                total[k] += share
                                fx[k] += share * ex
                                fy[k] += share * ey
                                fz[k] += share * ez
                    if not last:
                        for k in range(hi - lo):
                            square = x[k] * x[k] + y[k] * y[k] + z[k] * z[k]
                            length = math.sqrt((d[k] - at[k]) * (d[k] - at[k]) * square + far[k] + tiny)
                            share = w[k] * square / (length if length > soft else soft)
                            total[k] += share
                            moment[k] += share * (at[k] - d[k])
                if not last:
                    g, h = pull[i, lo:hi], stiffness[i, lo:hi]
                    for k in range(hi - lo):
                        stiff = total[k] + h[k]
                        step = (moment[k] + g[k] - h[k] * (d[k] - before[k])) / (stiff if stiff > zero else one)
                        d[k] += beyond * step if beyond * step > lowest * d[k] else lowest * d[k]
                else:
                    value[i] += sum_value
                    ray_rows(hi - lo, a[i, :, 3], axes[i], d, rays, total, offset, flat)
                    gram[i] += np.dot(rows, rows.T)


@compiled
def similarity_moments_pass(
    start, stop, first, edge, second, xyz_1, xyz_2, weight_1, weight_2, unit, similarity, pixels, a, depth, softening,
    moments,
):  # fmt: skip
    """Per observation 24 weighted sums: of 1, q, X, X q^T and |q|^2, with q the pair's point and X the world's, of
    the squared distance (GA itself, but for what is softened), and of X X^T (upper triangle)."""
    p = depth.shape[1]
    points = np.empty((3, TILE), depth.dtype)
    zero, tiny = depth.dtype.type(0), depth.dtype.type(1e-30)
    for i in range(start, stop):
        soft = softening[i]
        for lo in range(0, p, TILE):
            hi = min(p, lo + TILE)
            place(pixels, depth[i], a[i], lo, hi, points)
            x, y, z = points[0], points[1], points[2]
            for o in range(first[i], first[i + 1]):
                e = edge[o]
                if second[o]:
                    q, w = xyz_2[e, 3 * lo : 3 * hi], weight_2[e, lo:hi]
                else:
                    q, w = xyz_1[e, 3 * lo : 3 * hi], weight_1[e, lo:hi]
                s, m = similarity[e], unit[e]
                s00, s01, s02, s03 = s[0, 0], s[0, 1], s[0, 2], s[0, 3]
                s10, s11, s12, s13 = s[1, 0], s[1, 1], s[1, 2], s[1, 3]
                s20, s21, s22, s23 = s[2, 0], s[2, 1], s[2, 2], s[2, 3]
                total = sum_q0 = sum_q1 = sum_q2 = sum_x = sum_y = sum_z = square = value = zero
                x0 = x1 = x2 = y0 = y1 = y2 = z0 = z1 = z2 = zero
                xx = xy = xz = yy = yz = zz = zero
                for k in range(hi - lo):
                    q0, q1, q2 = m * number(q[3 * k]), m * number(q[3 * k + 1]), m * number(q[3 * k + 2])
                    ex = s00 * q0 + s01 * q1 + s02 * q2 + s03 - x[k]
                    ey = s10 * q0 + s11 * q1 + s12 * q2 + s13 - y[k]
                    ez = s20 * q0 + s21 * q1 + s22 * q2 + s23 - z[k]
                    length = math.sqrt(ex * ex + ey * ey + ez * ez + tiny)
                    known = number(w[k])
                    share = known / (length if length > soft else soft)
                    value += share * length * length
                    px, py, pz = share * x[k], share * y[k], share * z[k]
                    total += share
                    sum_q0 += share * q0
                    sum_q1 += share * q1
                    sum_q2 += share * q2
                    sum_x += px
                    sum_y += py
                    sum_z += pz
                    x0 += px * q0
                    x1 += px * q1
                    x2 += px * q2
                    y0 += py * q0
                    y1 += py * q1
                    y2 += py * q2
                    z0 += pz * q0
                    z1 += pz * q1
                    z2 += pz * q2
                    xx += px * x[k]
                    xy += px * y[k]
                    xz += px * z[k]
                    yy += py * y[k]
                    yz += py * z[k]
                    zz += pz * z[k]
                    square += share * (q0 * q0 + q1 * q1 + q2 * q2)
                g = moments[o]
                g[0] += total
                g[1] += sum_q0
                g[2] += sum_q1
                g[3] += sum_q2
                g[4] += sum_x
                g[5] += sum_y
                g[6] += sum_z
                g[7] += x0
                g[8] += x1
                g[9] += x2
                g[10] += y0
                g[11] += y1
                g[12] += y2
                g[13] += z0
                g[14] += z1
                g[15] += z2
                g[16] += square
                g[17] += value
                g[18] += xx
                g[19] += xy
                g[20] += xz
                g[21] += yy
                g[22] += yz
                g[23] += zz


@compiled
def camera_motion_depth_pass(
    start, stop, first, source, flow, static, b, pixels, a, depth, limit, count, value, pull, stiffness
):
    """CMA by depth alone, for the edges ``source[first[i]:first[i + 1]]`` from each frame i: adds to ``pull`` and
    ``stiffness`` (t, p) what would move d by pull / stiffness, and to ``value`` and ``count`` (e) CMA's sum and what it
    is to be divided by."""
    p = depth.shape[1]
    work = np.empty(5 * TILE, depth.dtype)
    points, own_pull, own_stiffness = work[: 3 * TILE].reshape(3, TILE), work[3 * TILE : 4 * TILE], work[4 * TILE :]
    zero, one, half = depth.dtype.type(0), depth.dtype.type(1), depth.dtype.type(0.5)
    nearest = depth.dtype.type(1e-3)
    for i in range(start, stop):
        ox, oy, oz = a[i, 0, 3], a[i, 1, 3], a[i, 2, 3]
        for lo in range(0, p, TILE):
            hi = min(p, lo + TILE)
            place(pixels, depth[i], a[i], lo, hi, points)
            d, u, v = depth[i, lo:hi], pixels[0, lo:hi], pixels[1, lo:hi]
            work[3 * TILE :] = zero
            for j in range(first[i], first[i + 1]):
                e = source[j]
                f, kept = flow[e, 2 * lo : 2 * hi], static[e, lo:hi]
                b00, b01, b02, b03 = b[e, 0, 0], b[e, 0, 1], b[e, 0, 2], b[e, 0, 3]
                b10, b11, b12, b13 = b[e, 1, 0], b[e, 1, 1], b[e, 1, 2], b[e, 1, 3]
                b20, b21, b22, b23 = b[e, 2, 0], b[e, 2, 1], b[e, 2, 2], b[e, 2, 3]
                total = number_kept = zero
                for k in range(hi - lo):
                    x, y, z = points[0, k], points[1, k], points[2, k]
                    depth_m = b20 * x + b21 * y + b22 * z + b23
                    ahead = depth_m > nearest
                    inverse = one / (depth_m if ahead else one)
                    seen = (one if ahead else zero) * (one if kept[k] else zero)
                    um = (b00 * x + b01 * y + b02 * z + b03) * inverse
                    vm = (b10 * x + b11 * y + b12 * z + b13) * inverse
                    eu, ev = um - u[k] - f[2 * k], vm - v[k] - f[2 * k + 1]
                    au, av = abs(eu), abs(ev)
                    ku, kv = seen * (one if au < limit else zero), seen * (one if av < limit else zero)
                    cu, cv = (au if au < one else one), (av if av < one else one)
                    total += ku * cu * (au - half * cu) + kv * cv * (av - half * cv)
                    number_kept += ku + kv
                    ku, kv = ku / (au if au > one else one), kv / (av if av > one else one)
                    x, y, z = x - ox, y - oy, z - oz
                    along = b20 * x + b21 * y + b22 * z
                    inverse = inverse / d[k]
                    ju = inverse * (b00 * x + b01 * y + b02 * z - um * along)
                    jv = inverse * (b10 * x + b11 * y + b12 * z - vm * along)
                    own_pull[k] -= ku * eu * ju + kv * ev * jv
                    own_stiffness[k] += ku * ju * ju + kv * jv * jv
                value[e] += total
                count[e] += number_kept
            pull[i, lo:hi] += own_pull[: hi - lo]
            stiffness[i, lo:hi] += own_stiffness[: hi - lo]


@compiled
def camera_motion_rows_pass(start, stop, first, source, flow, static, b, centre, pixels, a, axes, depth, limit, gram):
    """CMA by the cameras: adds to ``gram`` (e, 10, 10) the products of the rows, reweighted, of the derivatives of
    ego-flow by a similarity of the points in the world (3 of translation, 3 of rotation, 1 of scale; one of the second
    camera is its opposite), by log f of the first and of the second frame, and of the error."""
    p = depth.shape[1]
    # One array at known distances, or the compiler sees too many that might overlap to work on many pixels at once.
    work = np.empty(10 * WIDE + 3 * TILE, depth.dtype)
    rows, points = work[: 10 * WIDE].reshape(10, WIDE), work[10 * WIDE :].reshape(3, TILE)
    X, Y, Z = 10 * WIDE, 10 * WIDE + TILE, 10 * WIDE + 2 * TILE
    zero, one = depth.dtype.type(0), depth.dtype.type(1)
    nearest = depth.dtype.type(1e-3)
    for i in range(start, stop):
        ox, oy, oz = a[i, 0, 3], a[i, 1, 3], a[i, 2, 3]
        ax, ay, az = axes[i, 0, 2], axes[i, 1, 2], axes[i, 2, 2]
        for lo in range(0, p, TILE):
            hi = min(p, lo + TILE)
            n = hi - lo
            place(pixels, depth[i], a[i], lo, hi, points)
            d = depth[i, lo:hi]
            rows[:, n:TILE], rows[:, TILE + n :] = zero, zero
            for j in range(first[i], first[i + 1]):
                e = source[j]
                f, kept = flow[e, 2 * lo : 2 * hi], static[e, lo:hi]
                b20, b21, b22, b23 = b[e, 2, 0], b[e, 2, 1], b[e, 2, 2], b[e, 2, 3]
                for c in range(2):
                    b0, b1, b2, b3, middle = b[e, c, 0], b[e, c, 1], b[e, c, 2], b[e, c, 3], centre[e, c]
                    own, at = pixels[c, lo:hi], c * TILE
                    for k in range(n):
                        x, y, z = work[X + k], work[Y + k], work[Z + k]
                        depth_m = b20 * x + b21 * y + b22 * z + b23
                        ahead = depth_m > nearest
                        inverse = one / (depth_m if ahead else one)
                        image = (b0 * x + b1 * y + b2 * z + b3) * inverse
                        error = image - own[k] - f[2 * k + c]
                        size = abs(error)
                        weight = (one if ahead else zero) * (one if kept[k] else zero) * (one if size < limit else zero)
                        root = weight * math.sqrt(one / (size if size > one else one))
                        scaled = root * inverse
                        jx, jy, jz = (
                            scaled * (b0 - image * b20),
                            scaled * (b1 - image * b21),
                            scaled * (b2 - image * b22),
                        )
                        along = (jx * (x - ox) + jy * (y - oy) + jz * (z - oz)) / d[k]
                        work[at + k] = jx
                        work[WIDE + at + k] = jy
                        work[2 * WIDE + at + k] = jz
                        work[3 * WIDE + at + k] = y * jz - z * jy
                        work[4 * WIDE + at + k] = z * jx - x * jz
                        work[5 * WIDE + at + k] = x * jy - y * jx
                        work[6 * WIDE + at + k] = jx * x + jy * y + jz * z
                        work[7 * WIDE + at + k] = d[k] * (jx * ax + jy * ay + jz * az - along)
                        work[8 * WIDE + at + k] = root * (image - middle)
                        work[9 * WIDE + at + k] = root * error
                gram[e] += np.dot(rows, rows.T)
