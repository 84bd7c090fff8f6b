"""Golden tables that the shared ones lack: other schedules, zero terminal SNR, other continuous paths. 60 working digits, 30 printed.

extreme_*.csv hold the closed forms over the whole range of an f64, where squares and products are out of range: 700 working digits.

    pip install mpmath && python3 tests/golden/make_tables.py

Schedule parameters are the doubles that the decimals denote; every 7th step of T = 1000 and the last are kept.
"""

import csv
import pathlib
import random

import mpmath
from mpmath import atan, cos, diff, erfc, exp, expm1, inf, log, log1p, mp, mpf, nstr, pi, sin, sqrt

mp.dps = 60
HERE = pathlib.Path(__file__).parent / "mp"
T = 1000


def betas(name):
    lo, hi = {"linear": (1e-4, 0.02), "sigmoid": (1e-4, 0.02), "scaled-linear": (0.00085, 0.012)}[name]
    lo, hi = mpf(lo), mpf(hi)
    for k in range(T):
        u = mpf(k) / (T - 1)
        if name == "linear":
            yield lo + (hi - lo) * u
        elif name == "scaled-linear":
            yield (sqrt(lo) + (sqrt(hi) - sqrt(lo)) * u) ** 2
        else:
            yield lo + (hi - lo) / (1 + exp(6 - 12 * u))


def zero_terminal(bs):
    alphas, a = [], mpf(1)
    for b in bs:
        a *= sqrt(1 - b)
        alphas.append(a)
    first, last = alphas[0], alphas[-1]
    before = mpf(1)
    for a in alphas:
        a = (a - last) * first / (first - last)
        yield 1 - (a / before) ** 2
        before = a


def text(x):
    return nstr(x, 30) if abs(x) != inf else ("inf" if x > 0 else "-inf")


def ratio(a, b):
    return a / b if b != 0 else inf


def discrete(name, bs):
    head = "t,beta,alpha_step,alpha_bar,alpha,sigma,snr,log_snr,posterior_coef_x0,posterior_coef_xt,posterior_var,vlb_weight_beta,vlb_weight_posterior"
    with open(HERE / f"{name}_1000.csv", "w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(head.split(","))
        before = mpf(1)
        for t, b in enumerate(bs, 1):
            bar = before * (1 - b)
            if abs(bar) < mpf(10) ** -50:
                bar, b = mpf(0), mpf(1)
            var = 1 - bar
            snr = bar / var
            row = [b, 1 - b, bar, sqrt(bar), sqrt(var), snr, log(snr) if snr else -inf, sqrt(before) * b / var, sqrt(1 - b) * (1 - before) / var,
                   b * (1 - before) / var, ratio(b, 2 * (1 - b) * var), ratio(b, 2 * (1 - b) * (1 - before))]
            if t % 7 == 1 or t == T:
                out.writerow([t] + [text(x) for x in row])
            before = bar


def continuous(name, alpha, sigma, times):
    with open(HERE / f"{name}_continuous.csv", "w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow("t,alpha,sigma,d_alpha,d_sigma,snr,log_snr".split(","))
        for t in times:
            m = mpf(t)
            a, s = alpha(m), sigma(m)
            if abs(a) < mpf(10) ** -50:
                a = mpf(0)
            snr = ratio(a * a, s * s)
            log_snr = -inf if a == 0 else inf if s == 0 else log(snr)
            # Central differences of an analytic function at 60 digits: good to 25 and more; what is below is 0.
            rates = [r if abs(r) > mpf(10) ** -25 else mpf(0) for r in (diff(alpha, m), diff(sigma, m))]
            out.writerow([repr(t)] + [text(x) for x in (a, s, *rates, snr, log_snr)])


def table(name, head, rows):
    with open(HERE / f"{name}.csv", "w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(head.split(","))
        out.writerows([repr(x) if isinstance(x, float) else x if isinstance(x, (int, str)) else text(x) for x in row] for row in rows)


def in_range(*values):
    return all(mpf(10) ** -300 < abs(v) < mpf(10) ** 300 for v in values)


def extreme_gains(rng):
    """One mode between two levels, and at the later one; alphas of 1 in every other row, as on VE and EDM."""
    k = 0
    while k < 400:
        width = 300 if k % 4 < 2 else 12
        size = lambda most=300: 10.0 ** rng.uniform(-min(width, most), min(width, most))
        lam, a1, s1, a2, s2 = size(), size(150), size(), size(150), size()
        if k % 2 == 0:
            a1 = a2 = 1.0
        l, b1, t1, b2, t2 = map(mpf, (lam, a1, s1, a2, s2))
        v1, v2 = b1**2 * l + t1**2, b2**2 * l + t2**2
        clean, noisy = max(b1 / t1, b2 / t2), min(b1 / t1, b2 / t2)
        row = [sqrt(v2 / v1), b2 * l / sqrt(v1 * v2), log(v2 / v1) / 2, b2 * l / v2, l * t2**2 / v2, t2**2 / v2,
               (b1 * b2 * l + t1 * t2) / v1, sqrt(l / (l + t2**2)), log((1 + clean**2 * l) / (1 + noisy**2 * l)) / 2]
        # Psi near 1 between levels that differ in both coefficients has the condition of their difference.
        if in_range(*row) and abs(row[2]) > 0.1 and row[8] > 0.1:
            k += 1
            yield [lam, a1, s1, a2, s2] + row


def extreme_steps(rng):
    """A transition of the bound at any size of a step: log_ratio free, and the best one for every other row."""
    for k in range(300):
        drop, error = 10.0 ** rng.uniform(-20, 300 if k % 3 else 3), 10.0 ** rng.uniform(-20, 20 if k % 3 else 3)
        best = log1p(mpf(drop) * mpf(error))
        r = float(best) if k % 2 else float(best) + rng.choice([-1, 1]) * 10.0 ** rng.uniform(-6, 1.5)
        sigma_s, growth = 10.0 ** rng.uniform(-300, 0), 10.0 ** rng.uniform(-12, 299)
        sigma_t = sigma_s * (1 + growth)
        x = mpf(r)
        yield [drop, error, r, (x + expm1(-x) + exp(-x) * mpf(drop) * mpf(error)) / 2, sigma_s, sigma_t, 2 * log(mpf(sigma_t) / mpf(sigma_s))]


def extreme_preconditioning(rng):
    k = 0
    while k < 200:
        size = lambda: 10.0 ** rng.uniform(-300, 300)
        sigma, sd, var = size(), 0.5 if k % 2 else size(), size()
        s, d, v = map(mpf, (sigma, sd, var))
        n2 = s**2 + d**2
        row = [d**2 / n2, s * d / sqrt(n2), 1 / sqrt(n2), (v + s**2) / n2, (s**2 * v / d**2 + d**2) / n2]
        if in_range(*row):
            k += 1
            yield [sigma, sd, var] + row


def extreme_conversions(rng):
    """Every sum of two terms of one sign: x_t and p positive, the rate of alpha negative."""
    for k in range(200):
        near, size = lambda: 10.0 ** rng.uniform(-4, 4), 10.0 ** rng.uniform(-290, 290)
        # VE in every other row: no unit of length for its signal, and any for its noise.
        alpha, da = (1.0, -near()) if k % 2 else (size * near(), -size * near())
        sigma, ds, p, x = size * near(), size * near(), near(), size * near()
        a, s, u, w, q, y = map(mpf, (alpha, sigma, da, ds, p, x))
        n = sqrt(s**2 + a**2 / 4)
        row = [(a * y + s * q) / (a * a + s * s), (s * y + a * q) / (a * a + s * s), (w * y + s * q) / (a * w - s * u), (a * q - u * y) / (a * w - s * u),
               (a / 2 / n * y + s * q) / 2 / n, (s / n * y + a / 2 * q) / n]
        yield [alpha, sigma, da, ds, p, x] + row


def extreme_quantiles():
    for p in [5e-324, 1e-323, 1e-320, 1e-315, 1e-310, 2.2250738585072014e-308, 1e-307, 1e-300, 1e-200, 1e-100, 1e-30]:
        yield [p, -sqrt(mpf(2)) * mpmath.erfinv(1 - 2 * mpf(p))]


def extreme_vp():
    """VP of any largest beta, 1e-3 to 1e8, and the inverse of log SNR."""
    for beta_max in [20.0, 3000.0, 1e5, 1e8]:
        for t in [1e-300, 1e-100, 1e-12, 1e-3, 0.1, 0.3, 0.7, 0.99, 1.0]:
            b = mpf(t) * (mpf(t) * (mpf(beta_max) - mpf(0.1)) / 2 + mpf(0.1))
            value = -log(expm1(b))
            l = float(value)
            back = log1p(exp(-mpf(l)))
            lo, slope = mpf(0.1), mpf(beta_max) - mpf(0.1)
            yield [beta_max, t, value, l, 2 * back / (lo + sqrt(lo**2 + 2 * slope * back))]


def extreme_ve():
    for lo, hi in [(1e-300, 1e300), (1e-200, 1e200), (1e-12, 1e300), (1e-300, 1e-299)]:
        # Without t = 0.5, where log SNR is that of the rounding of the two ends.
        for t in [0.0, 1e-12, 0.1, 0.4999999, 0.5000001, 0.9, 0.999999, 1.0]:
            octaves = log(mpf(hi) / mpf(lo))
            s = mpf(lo) * exp(mpf(t) * octaves)
            yield [lo, hi, t, s, s * octaves, -2 * log(s)]


def extreme_table(name, bs, zero):
    """Rows of a table of few steps, without rounding a small alpha_bar to 0."""
    bs = list(zero_terminal([mpf(b) for b in bs])) if zero else [mpf(b) for b in bs]
    head = "t,beta,alpha_bar,alpha,sigma,log_snr,posterior_coef_x0,posterior_coef_xt,posterior_var,vlb_weight_beta"
    rows, before, var_before = [], mpf(1), mpf(0)
    for t, b in enumerate(bs, 1):
        last = zero and t == len(bs)
        bar = mpf(0) if last else before * (1 - b)
        var = 1 - bar
        rows.append([t, b, bar, sqrt(bar), sqrt(var), -inf if last else log(bar / var), sqrt(before) * b / var,
                     mpf(0) if last else sqrt(1 - b) * var_before / var, b * var_before / var, inf if last else b / (2 * (1 - b) * var)])
        before, var_before = bar, var
    table(name, head, rows)


def decoder(rng):
    ncdf = lambda x: mpmath.erfc(-x / sqrt(mpf(2))) / 2

    def row(bins, k, mean, std):
        edge = lambda j: (mpf(j) / (bins - 1) - mpf(mean)) / mpf(std)
        low, high = edge(2 * k - bins), edge(2 * k - bins + 2)
        # The tails, not the masses, so that nothing is lost near 1.
        below, above = mpf(0) if k == 0 else ncdf(low), mpf(0) if k == bins - 1 else ncdf(-high)
        return [bins, k, mean, std, log1p(-(below + above)) if below + above < 0.5 else log(1 - below - above)]

    yield row(1024, 225, -0.5622, 0.0024)
    for bins in [2, 17, 256, 1024, 65536]:
        for k in range(80):
            level = rng.choice([0, bins - 1]) if k % 8 == 0 else rng.randrange(bins)
            std = 10.0 ** rng.uniform(-4, 0.5) if k % 3 else 10.0 ** rng.uniform(-1.5, -0.6) / (bins - 1)
            spread = std if k % 3 else 1e-3 / bins
            yield row(bins, level, -1 + 2 * level / (bins - 1) + spread * rng.uniform(-8, 8), std)


def double_doubles(rng):
    """Functions of one double over their domains, the value as the sum of two."""
    anything = lambda: rng.choice([-1, 1]) * 10.0 ** rng.uniform(-150, 308)
    positive = lambda: 10.0 ** rng.uniform(-307, 308)
    near = lambda c: lambda: c * (1 + rng.choice([-1, 1]) * 10.0 ** rng.uniform(-15.5, -1))
    domains = [("exp", exp, lambda: rng.uniform(-600, 709.5)), ("exp2", lambda x: mpf(2) ** x, lambda: rng.uniform(-900, 1023.5)),
               ("exp_m1", expm1, lambda: rng.uniform(-40, 709)), ("ln", log, positive), ("ln", log, near(1.0)), ("ln", log, lambda: 5e307 * rng.uniform(0.5, 3.5)),
               ("ln", log, lambda: 5e-324 * rng.randrange(1, 2**40)), ("ln_1p", log1p, positive), ("ln_1p", log1p, lambda: -1 + 10.0 ** rng.uniform(-15, 0)),
               ("sqrt", sqrt, positive), ("cbrt", mpmath.cbrt, positive), ("sinh", mpmath.sinh, lambda: rng.uniform(-710, 710)),
               ("cosh", mpmath.cosh, lambda: rng.uniform(-710, 710)), ("tanh", mpmath.tanh, lambda: rng.choice([-1, 1]) * 10.0 ** rng.uniform(-150, 2)),
               ("asinh", mpmath.asinh, anything), ("acosh", mpmath.acosh, lambda: 10.0 ** rng.uniform(0, 308)),
               ("acosh", mpmath.acosh, lambda: 1 + 2.0**-52 * rng.randrange(1, 2**20)), ("atanh", mpmath.atanh, lambda: rng.uniform(-1, 1)),
               ("atanh", mpmath.atanh, lambda: rng.choice([-1, 1]) * (1 - 2.0**-53 * rng.randrange(1, 2**20))), ("atan", mpmath.atan, anything),
               ("asin", mpmath.asin, near(-1.0)), ("acos", mpmath.acos, lambda: rng.uniform(-1, 1)), ("sin", sin, lambda: rng.uniform(-1000, 1000)),
               ("cos", cos, lambda: rng.uniform(-1000, 1000)), ("sin", sin, lambda: rng.uniform(-1e15, 1e15)), ("cos", cos, lambda: rng.uniform(-1e15, 1e15))]
    for name, f, draw in domains:
        for _ in range(40):
            x = draw()
            if name in ("asin", "acos") and abs(x) > 1:
                x = 1 / x
            value = f(mpf(x))
            hi = float(value)
            yield [name, x, hi, float(value - mpf(hi))]


def extremes():
    mp.dps = 700
    rng = random.Random(16)
    table("extreme_gains", "lambda,alpha_from,sigma_from,alpha_to,sigma_to,psi,xi,log_psi,wiener,mmse,noise_share,ddim,emerged,transitions", extreme_gains(rng))
    table("extreme_steps", "drop,error,log_ratio,transition,sigma_s,sigma_t,log_ratio_beta", extreme_steps(rng))
    table("extreme_preconditioning", "sigma,sigma_data,data_var,c_skip,c_out,c_in,input_var,target_var", extreme_preconditioning(rng))
    table("extreme_conversions", "alpha,sigma,d_alpha,d_sigma,p,xt,x0_from_v,eps_from_v,x0_from_velocity,eps_from_velocity,x0_from_f,eps_from_f", extreme_conversions(rng))
    table("extreme_quantile", "p,quantile", extreme_quantiles())
    table("extreme_vp", "beta_max,t,log_snr,at,time", extreme_vp())
    table("extreme_ve", "sigma_min,sigma_max,t,sigma,d_sigma,log_snr", extreme_ve())
    for size in [1e-200, 1e-16]:
        extreme_table(f"extreme_table_zero_snr_{size:.0e}", [mpf(size) + (mpf(20 * size) - mpf(size)) * k / 19 for k in range(20)], True)
    extreme_table("extreme_table_steep", [0.999 - 1e-4 * (k % 7) for k in range(300)], False)
    table("decoder", "bins,k,mean,std,log_mass", decoder(rng))
    table("double_double", "function,x,hi,lo", double_doubles(rng))
    mp.dps = 60


# Laws and flows at the ends of f64. Working digits as each needs: exponents reach 1e20.


def write(name, head, rows):
    with open(HERE / name, "w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(head)
        for inputs, values in rows:
            out.writerow([repr(float(v)) for v in inputs] + [text(v) for v in values])


def two_point_rows(states):
    """Two points a and b in the plane, equal weights: all that follows from the weight of a."""
    for (ax, ay), (bx, by), alpha, sigma, (x, y) in states:
        inputs = (ax, ay, bx, by, alpha, sigma, x, y)
        ax, ay, bx, by, alpha, sigma, x, y = map(mpf, inputs)
        e_a, e_b = (-((x - alpha * u) ** 2 + (y - alpha * v) ** 2) / (2 * sigma**2) for u, v in ((ax, ay), (bx, by)))
        p = 1 / (1 + exp(e_b - e_a))
        hat = p * ax + (1 - p) * bx
        var = p * (1 - p) * (ax - bx) ** 2
        log_density = e_a + log((1 + exp(e_b - e_a)) / 2) - log(2 * pi * sigma**2)
        score = (p * (alpha * ax - x) + (1 - p) * (alpha * bx - x)) / sigma**2
        yield inputs, (p, hat, score, var, alpha * var / sigma**2, log_density)


def far_and_tied():
    # Far off two near points, where their weights are alike.
    for sigma in (1e-2, 1e-4, 1e-7, 1e-9):
        for share in (0.25, 1.0, 3.0):
            yield (1e-3, 0.0), (-1e-3, 0.0), 1.0, sigma, (share * sigma**2 / 2e-3, 1.0)
    for far in (1e2, 1e4, 1e6):
        yield (0.3, 0.1), (0.25, 0.7), 0.8, 1e-3, (far * 0.6, far * 0.05)
    # Ties, and states a little beside them; the last two points have no exact middle.
    for sigma in (8e-3, 8e-6, 8e-9):
        for a, b in (((-0.7, 0.2), (0.4, 1.1)), ((0.1, 0.7), (0.3, -0.2))):
            for side in (-0.8, 0.0, 0.3):
                # side standard deviations of noise along the line between them, as doubles
                mx, my, dx, dy = (a[0] + b[0]) / 2, (a[1] + b[1]) / 2, a[0] - b[0], a[1] - b[1]
                square = dx * dx + dy * dy
                yield a, b, 1.0, sigma, (mx + side * sigma**2 * dx / square, my + side * sigma**2 * dy / square)


def normal_cdf(z):
    return erfc(-z / sqrt(mpf(2))) / 2


def flow_rows(cases):
    """The PF-ODE in one dimension keeps quantiles: x_to = F_to^-1(F_from(x)), of equal normals of variance v about the given means."""
    for which, (means, v, (alpha, sigma), x, (alpha_to, sigma_to)) in enumerate(cases):
        ms, v, a, s, b, t = [mpf(m) for m in means], mpf(v), mpf(alpha), mpf(sigma), mpf(alpha_to), mpf(sigma_to)
        cdf = lambda y, a, s: sum(normal_cdf((y - a * m) / sqrt(a * a * v + s * s)) for m in ms) / len(ms)
        target, std = cdf(mpf(x), a, s), sqrt(b * b * v + t * t)
        upper = target > mpf(1) / 2
        tail = 1 - target if upper else target
        f = lambda y: log(1 - cdf(y, b, t) if upper else cdf(y, b, t)) - log(tail)
        lo, hi = b * min(ms) - 40 * std, b * max(ms) + 40 * std
        for _ in range(300):
            middle = (lo + hi) / 2
            lo, hi = (middle, hi) if (f(middle) > 0) == upper else (lo, middle)
        ends = (list(means) + [means[-1]] * 4)[:4]
        yield (len(means), *ends, v, alpha, sigma, x, alpha_to, sigma_to), (lo,)


def flows():
    for m in (0.0, 1e4, 1e6, 1e9):
        for x in (-1.5, 0.75):
            # From sigma = 2 about m to the data.
            yield (m - 1, m + 1), 0.01, (1.0, 2.0), m + x, (1.0, 0.0)
            yield (m - 1, m + 1), 0.01, (0.5, 1.0), 0.5 * m + x, (1.0, 1e-3)
    # Two pairs of near points, from far below their distance to far above.
    pairs = (-5 - 1e-4, -5.0, 5.0, 5 + 1e-4)
    yield pairs, 0.0, (1.0, 1e-5), 5.00005, (1.0, 80.0)
    yield pairs, 0.0, (1.0, 1e-5), 5.00002, (1.0, 80.0)
    yield pairs, 0.0, (1.0, 1e-3), 4.999, (1.0, 80.0)


def langevin_rows():
    """Variance at s_to of a reverse process with Langevin churn on EDM levels, from variance `start`."""
    for lam in (0.0, 1e-6, 1.0, 1e4):
        for s, t in ((1e-5, 0.0), (1e-5, 9.99e-6), (1e-2, 1e-3), (1.0, 0.999999), (1.0, 0.25), (80.0, 79.9), (80.0, 1e-3)):
            for start in (0.0, 1e-12):
                for rate in (0.5, 2.0):
                    la, a, b, r = mpf(lam), mpf(s), mpf(t), mpf(rate)
                    root = sqrt(la)
                    primitive = lambda u: u - root * atan(u / root) if la else u
                    log_forgetting = r * (primitive(b) - primitive(a))
                    psi2 = (la + b * b) / (la + a * a)
                    yield (lam, s, t, start, rate), (psi2 * exp(2 * log_forgetting) * mpf(start) - (la + b * b) * expm1(2 * log_forgetting),)


def laws_and_flows():
    mp.dps = 90
    write("two_points.csv", "ax,ay,bx,by,alpha,sigma,x,y,weight,x0_hat,score,variance,jacobian,log_density".split(","), two_point_rows(far_and_tied()))
    write("langevin_variance.csv", "lambda,s_from,s_to,start,rate,variance".split(","), langevin_rows())
    mp.dps = 60
    head = "points,m1,m2,m3,m4,v,alpha,sigma,x,alpha_to,sigma_to,x_to".split(",")
    write("flow_1d.csv", head, flow_rows(flows()))


if __name__ == "__main__":
    discrete("scaled-linear", betas("scaled-linear"))
    discrete("sigmoid", betas("sigmoid"))
    discrete("linear-zero-snr", zero_terminal(betas("linear")))
    discrete("scaled-linear-zero-snr", zero_terminal(betas("scaled-linear")))
    inner = [1e-12, 1e-8, 1e-5, 1e-3, 0.05, 0.25, 1 / 3, 0.499999, 0.5, 0.75, 0.9, 0.99, 0.999999]
    continuous("ve", lambda t: mpf(1), lambda t: mpf(0.01) * (mpf(50) / mpf(0.01)) ** t, [0.0] + inner + [1.0])
    continuous("edm", lambda t: mpf(1), lambda t: 80 * t, inner + [1.0])
    # Without t = 0.5, where log SNR is exactly 0 and any rounding an infinite relative error (tweedie gives 1e-32 there).
    continuous("cosine", lambda t: cos(pi * t / 2), lambda t: sin(pi * t / 2), [0.0] + [t for t in inner if t != 0.5] + [1.0])
    continuous("fm", lambda t: 1 - t, lambda t: t, [0.0] + inner + [1.0])
    extremes()
    laws_and_flows()
