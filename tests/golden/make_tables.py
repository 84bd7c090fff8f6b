"""Golden tables that the shared ones lack: other schedules, zero terminal SNR, other continuous paths. 60 working digits, 30 printed.

    pip install mpmath && python3 tests/golden/make_tables.py

Schedule parameters are the doubles that the decimals denote; every 7th step of T = 1000 and the last are kept.
"""

import csv
import pathlib

from mpmath import cos, diff, exp, inf, log, mp, mpf, nstr, pi, sin, sqrt

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
