"""docs/notation.md: what a cell of its first table says, computed in float64 NumPy, is what the code computes."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from diffjax import calculus, host, schedules

ROOT = Path(__file__).parents[1]
PAGES = {"en": ROOT / "docs/notation.md", "zh": ROOT / "docs/zh/notation.md"}


def tables(page):
    """The tables of a page: rows of cells."""
    blocks = re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE)
    return [
        [[c.strip() for c in line.strip().strip("|").split("|")] for line in block.splitlines()] for block in blocks
    ]


TABLE = tables(PAGES["en"])[0]
HEAD, ROWS = TABLE[0], {row[0]: row for row in TABLE[2:]}

# What the papers' names are, in float64 from their own definitions. Of T = 1000 steps, t is the number of steps done.
T, STEPS = 1000, np.array([1, 10, 250, 500, 999])
su_alpha = np.sqrt(1 - 0.02 * np.arange(1, T + 1) / T)  # kexue 9119 (18)
su_bar = np.cumprod(su_alpha)[STEPS - 1]
su_beta_bar = np.sqrt(1 - su_bar**2)
betas = np.linspace(1e-4, 0.02, T)  # Ho et al. 2020, section 4
cumprod = np.cumprod(1 - betas)[STEPS - 1]

t = np.array([0.05, 0.3, 0.7, 0.95])
beta = 0.1 + (20 - 0.1) * t  # Song et al. 2021, eq. 32 and 33
integral = 0.1 * t + 0.5 * (20 - 0.1) * t**2
edm_s = 1 / np.sqrt(np.exp(0.5 * 19.9 * t**2 + 0.1 * t))  # Karras et al. 2022, table 1, VP
edm_sigma = np.sqrt(np.exp(0.5 * 19.9 * t**2 + 0.1 * t) - 1)
gamma = -13.3 + (5 + 13.3) * t  # Kingma et al. 2021, appendix H
lam = np.log(np.exp(-integral / 2) / np.sqrt(1 - np.exp(-integral)))  # Lu et al. 2022: log(alpha / sigma)
clock = 1 - t  # Liu et al. 2023, eq. 1: X_t = t X_1 + (1 - t) X_0, noise X_0 at 0 and data X_1 at 1; t here is ours

SCHEDULES = {
    "the series": (schedules.Tabulated.kexue(), STEPS / T),
    "DDPM": (schedules.Tabulated.linear(), STEPS / T),
    "score SDE (VP)": (schedules.VP(), t),
    "EDM": (schedules.VP(), t),
    "rectified flow": (schedules.Rectified(), t),
    "VDM": (schedules.VDM(), t),
    "DPM-Solver": (schedules.VP(), t),
}
CELLS = {  # (row, column): the cell's text, and the value of what it names
    ("signal", "the series"): (r"$\bar\alpha_t$", su_bar),
    ("noise", "the series"): (r"$\bar\beta_t$", su_beta_bar),
    ("level", "the series"): (r"$\bar\beta_t/\bar\alpha_t$", su_beta_bar / su_bar),
    ("log-SNR", "the series"): (r"$2\log(\bar\alpha_t/\bar\beta_t)$", 2 * np.log(su_bar / su_beta_bar)),
    ("signal of one step", "the series"): (r"$\alpha_t$", su_alpha[STEPS - 1]),
    ("noise of one step", "the series"): (r"$\beta_t$", np.sqrt(0.02 * STEPS / T)),
    ("signal", "DDPM"): (r"$\sqrt{\bar\alpha_t}$", np.sqrt(cumprod)),
    ("noise", "DDPM"): (r"$\sqrt{1-\bar\alpha_t}$", np.sqrt(1 - cumprod)),
    ("level", "DDPM"): (r"$\sqrt{1/\bar\alpha_t-1}$", np.sqrt(1 / cumprod - 1)),
    ("log-SNR", "DDPM"): (r"$\log\bar\alpha_t-\log(1-\bar\alpha_t)$", np.log(cumprod) - np.log(1 - cumprod)),
    ("signal of one step", "DDPM"): (r"$\sqrt{1-\beta_t}$", np.sqrt(1 - betas[STEPS - 1])),
    ("noise of one step", "DDPM"): (r"$\sqrt{\beta_t}$", np.sqrt(betas[STEPS - 1])),
    ("signal", "score SDE (VP)"): (r"$e^{-\frac12\int_0^t\beta}$", np.exp(-integral / 2)),
    ("noise", "score SDE (VP)"): (r"$\sqrt{1-e^{-\int_0^t\beta}}$", np.sqrt(1 - np.exp(-integral))),
    ("drift", "score SDE (VP)"): (r"$-\frac12\beta(t)$", -beta / 2),
    ("diffusion, squared", "score SDE (VP)"): (r"$\beta(t)$", beta),
    ("signal", "EDM"): ("$s(t)$", edm_s),
    ("noise", "EDM"): (r"$s(t)\,\sigma(t)$", edm_s * edm_sigma),
    ("level", "EDM"): (r"$\sigma(t)$", edm_sigma),
    ("log-SNR", "EDM"): (r"$-2\log\sigma(t)$", -2 * np.log(edm_sigma)),
    ("signal", "rectified flow"): ("$t$", clock),
    ("noise", "rectified flow"): ("$1-t$", 1 - clock),
    ("level", "rectified flow"): ("$(1-t)/t$", (1 - clock) / clock),
    ("log-SNR", "rectified flow"): (r"$2\log(t/(1-t))$", 2 * np.log(clock / (1 - clock))),
    ("signal", "VDM"): (r"$\alpha_t$", np.sqrt(1 / (1 + np.exp(gamma)))),
    ("noise", "VDM"): (r"$\sigma_t$", np.sqrt(1 / (1 + np.exp(-gamma)))),
    ("level", "VDM"): (r"$e^{\gamma(t)/2}$", np.exp(gamma / 2)),
    ("log-SNR", "VDM"): (r"$-\gamma(t)$", -gamma),
    ("signal", "DPM-Solver"): (r"$\alpha_t$", np.exp(-integral / 2)),
    ("noise", "DPM-Solver"): (r"$\sigma_t$", np.sqrt(1 - np.exp(-integral))),
    ("level", "DPM-Solver"): (r"$e^{-\lambda_t}$", np.exp(-lam)),
    ("log-SNR", "DPM-Solver"): (r"$2\lambda_t$", 2 * lam),
    ("drift", "DPM-Solver"): ("$f(t)$", -beta / 2),
    ("diffusion, squared", "DPM-Solver"): ("$g^2(t)$", beta),
}
# Rates of the series on its own formulas: f = d log(bar alpha) / dt, g^2 = bar alpha^2 d(bar beta^2 / bar alpha^2) / dt
# (kexue 9209 (21)), by central differences of the VP schedule's bar alpha = exp(-integral / 2).
bar = lambda t: np.exp(-(0.1 * t + 0.5 * 19.9 * t**2) / 2)
change = lambda f, h=1e-5: (f(t + h) - f(t - h)) / (2 * h)
RATES = {
    ("drift", "the series"): ("$f_t$", change(lambda t: np.log(bar(t)))),
    ("diffusion, squared", "the series"): ("$g_t^2$", bar(t) ** 2 * change(lambda t: (1 - bar(t) ** 2) / bar(t) ** 2)),
}


def ours(row, schedule, ts):
    """What the column 'here' and its code say, from the library alone."""
    with host.enable_x64(True):
        alpha, sigma = calculus.amplitudes(schedule, ts)
        log_snr = np.asarray(jax.vmap(lambda t: calculus.log_snr(schedule, t))(np.asarray(ts)))
        if row in ("drift", "diffusion, squared"):
            rates = jax.vmap(lambda t: calculus.rates(schedule, t))(np.asarray(ts))
            return np.asarray(rates[row != "drift"])
        if row.endswith("of one step"):
            before, _ = calculus.amplitudes(schedule, ts - 1 / T)
            return alpha / before if row.startswith("signal") else np.sqrt(1 - (alpha / before) ** 2)
    return {"signal": alpha, "noise": sigma, "level": np.exp(-log_snr / 2), "log-SNR": log_snr}[row]


@pytest.mark.parametrize(("row", "column"), [*CELLS, *RATES])
def test_a_name_of_the_table_is_what_the_code_computes(row, column):
    """Tolerances: float64, and eps / (1 - alpha^2) of NumPy's own 1 - alpha^2; 1e-8 for central differences."""
    text, value = (CELLS | RATES)[row, column]
    assert ROWS[row][HEAD.index(column)] == text
    schedule, ts = SCHEDULES[column] if (row, column) in CELLS else (schedules.VP(), t)
    rtol = 1e-9 if (row, column) in CELLS else 1e-7
    np.testing.assert_allclose(ours(row, schedule, ts), value, rtol=rtol, atol=1e-9)


def test_the_velocity_of_rectified_flow_is_minus_ours():
    """d X_t / dt = X_1 - X_0 on the paper's clock, with X_1 = x_0 and X_0 = z; d x_t / dt on ours."""
    row = next(row for row in tables(PAGES["en"])[1] if row[0] == "velocity")
    assert (row[1], row[-1]) == (r"$\alpha' x_0 + \sigma' z$", "$X_1 - X_0$")
    with host.enable_x64(True):
        _, (alpha, sigma) = jax.jvp(schedules.Rectified(), (0.3,), (1.0,))
        alpha, sigma = float(alpha), float(sigma)
    x1, x0 = 2.0, -0.7  # the paper's data and noise
    assert alpha * x1 + sigma * x0 == pytest.approx(-(x1 - x0), rel=1e-12)


def test_no_cell_with_a_formula_is_left_out():
    named = {(row[0], HEAD[i]) for row in TABLE[2:] for i in range(3, len(row)) if row[i]}
    assert named - {*CELLS, *RATES} == {("signal of one step", "VDM")}  # alpha_{t|s} = alpha_t / alpha_s by definition


def test_both_languages_have_one_table():
    """Formulas and code are equal, cell by cell; the words of the first row and column are translated."""
    for english, chinese in zip(tables(PAGES["en"]), tables(PAGES["zh"]), strict=True):
        assert len(english) == len(chinese)
        assert [row[1:] for row in english[1:]] == [row[1:] for row in chinese[1:]]
