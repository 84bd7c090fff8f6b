"""Golden tables that the shared ones lack: other schedules, zero terminal SNR, other continuous paths. 60 working digits, 30 printed.

    pip install mpmath && python3 tests/golden/make_tables.py

Schedule parameters are the doubles that the decimals denote; every 7th step of T = 1000 and the last are kept.
"""

import csv
import pathlib

from mpmath import atan, cos, diff, erfc, exp, expm1, inf, log, mp, mpf, nstr, pi, sin, sqrt

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
    laws_and_flows()
