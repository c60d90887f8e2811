"""From null distributions to p-values: counts by hand, and how often heads are found that do nothing."""

import numpy as np
import pytest

from notice_lens.stats.clusters import Sums, flips, resamples
from notice_lens.stats.minimum_effect import MinimumEffect
from notice_lens.stats.nulls import Null, false_discoveries, family_wise, over_heads, p_values

ABOVE = Null(np.array([[1.0, 5.0], [2.0, 0.0], [3.0, 1.0]]))
"""No draw is below zero: a head at the boundary is never set aside."""
BOTH = Null(np.array([[1.0, 5.0, 0.0], [-2.0, 3.0, -1.0], [3.0, -1.0, 2.0], [-1.0, 2.0, -3.0]]))
"""Of four draws two, three and two are not below zero."""


def test_p_counts_draws_that_are_as_large() -> None:
    np.testing.assert_allclose(ABOVE.own(np.array([2.0, 4.0])), [3 / 4, 2 / 4])
    np.testing.assert_allclose(ABOVE.own(np.array([[2.0, 4.0], [9.0, 5.0]])), [[3 / 4, 2 / 4], [1 / 4, 2 / 4]])
    # All six draws: 0 1 1 2 3 5.
    np.testing.assert_allclose(ABOVE.pooled(np.array([2.0, 4.0])), [4 / 7, 2 / 7])
    np.testing.assert_allclose(ABOVE.pooled(np.array([[2.0, 4.0], [9.0, 5.0]])), [[4 / 7, 2 / 7], [1 / 7, 2 / 7]])


def test_the_larger_p_counts() -> None:
    p = p_values([ABOVE, Null(ABOVE.draws + 2)], np.array([2.0, 6.5]))
    np.testing.assert_allclose(p, [1, 2 / 4])
    np.testing.assert_allclose(p_values([ABOVE], np.array([2.0, 4.0])), [3 / 4, 2 / 4])
    # Of its own draws none is as large as the first head's; of all six one is.
    np.testing.assert_allclose(p_values([ABOVE], np.array([4.0, 5.5])), [2 / 7, 1 / 4])


def test_draws_without_spread_count_for_their_own_head_alone() -> None:
    inf = np.inf
    null = Null(
        np.array([[1.0, inf], [2.0, 0.5], [0.0, inf]]), np.array([[False, True], [False, False], [False, True]])
    )
    statistic = np.array([4.0, 4.0])
    np.testing.assert_allclose(null.own(statistic), [1 / 4, 3 / 4])
    # Of the four other draws none is as large.
    np.testing.assert_allclose(null.pooled(statistic), [1 / 5, 1 / 5])
    np.testing.assert_allclose(null.family_wise(statistic)[0], 1 / 4)
    np.testing.assert_allclose(family_wise([null], statistic), [1 / 4, 3 / 4])
    # Where no draw has any spread the own count is all there is.
    nothing = Null(np.zeros((3, 2)), np.ones((3, 2), bool))
    np.testing.assert_allclose(p_values([nothing], np.array([inf, 0.0])), [1 / 4, 1])


def test_step_down_leaves_out_what_was_judged() -> None:
    # By hand: largest of both per draw 5, 2, 3; of the second head alone 5, 0, 1.
    np.testing.assert_allclose(ABOVE.family_wise(np.array([4.0, 0.5])), [2 / 4, 3 / 4])
    np.testing.assert_allclose(ABOVE.family_wise(np.array([0.5, 4.0])), [1, 2 / 4])
    # The first needs two of four; the second by itself would need less, and may not.
    np.testing.assert_allclose(ABOVE.family_wise(np.array([3.5, 3.4])), [2 / 4, 2 / 4])


def test_heads_below_zero_are_set_aside_and_the_others_pay_for_it() -> None:
    # Heads 0 and 2 are left, each of them at the boundary in 3 of 5; their largest per draw are 1, -1, 3, -1.
    assert BOTH.chance(np.array([True, False, True])) == 3 / 5
    assert BOTH.chance(np.array([True, True, False])) == 3 / 5
    np.testing.assert_allclose(BOTH.family_wise(np.array([2.5, -0.1, 1.0])), [(2 / 5) / (3 / 5), 1, (2 / 5) / (3 / 5)])
    np.testing.assert_allclose(BOTH.family_wise(np.array([-1.0, 4.0, -1.0])), [1, (2 / 5) / (4 / 5), 1])
    np.testing.assert_array_equal(BOTH.family_wise(np.array([-1.0, -4.0, -1.0])), 1)


def test_what_is_set_aside_has_no_say_in_the_family_wise_rate() -> None:
    rng = np.random.default_rng(0)
    draws, statistic = rng.normal(size=(500, 8)), np.array([3.0, 2.0, 1.0, 0.0, -0.1, -1.0, -2.0, -3.0])
    np.testing.assert_array_equal(Null(draws).family_wise(statistic)[:4], Null(draws[:, :4]).family_wise(statistic[:4]))


def test_false_discoveries_are_counted_among_those_that_are_left() -> None:
    rng = np.random.default_rng(0)
    nulls = [Null(rng.normal(size=(999, 6))) for _ in range(2)]
    statistic = np.array([2.5, -0.5, 1.9, 0.4, -2.0, 3.0])
    kept = statistic >= 0
    chance = min(null.chance(kept) for null in nulls)
    found = false_discoveries(nulls, statistic)
    np.testing.assert_array_equal(found[~kept], 1)
    np.testing.assert_allclose(found[kept], over_heads(p_values(nulls, statistic)[kept] / chance))
    assert 0.4 < chance < 0.55
    np.testing.assert_array_equal(false_discoveries(nulls, -np.abs(statistic)), 1)


def test_no_q_is_below_its_p() -> None:
    # The draws of the second head make the first one's pooled p larger than its own and its step-down p.
    null = Null(np.column_stack([np.linspace(-1, 1, 99), np.linspace(-50, 50, 99)]))
    statistic = np.array([2.0, -1.0])
    assert null.family_wise(statistic)[0] < p_values([null], statistic)[0]
    np.testing.assert_array_equal(family_wise([null], statistic)[:1], p_values([null], statistic)[:1])


@pytest.mark.parametrize("inside", [0.0, 2.5])
def test_both_rates_hold_and_nothing_is_lost_at_the_boundary(inside: float) -> None:
    """24 normal heads, 1,000 runs: at the boundary, and far inside of the null but for one head to be found."""
    rng = np.random.default_rng(4)
    null = Null(rng.normal(size=(999, 24)))
    plainly, wrong, right, plain = np.quantile(null.draws.max(1), 0.95), np.zeros(2), 0, 0
    for statistic in rng.normal(size=(1000, 24)) - inside:
        q = [over([null], statistic) for over in (family_wise, false_discoveries)]
        wrong += [(own <= 0.05).any() for own in q]
        statistic[0] += inside + 3.2
        right += family_wise([null], statistic)[0] <= 0.05
        plain += statistic[0] >= plainly
    error = 3 * np.sqrt(0.05 * 0.95 / 1000)
    assert (wrong / 1000 <= 0.05 + error).all()
    if inside:
        assert right - plain > 0.15 * 1000
    else:
        assert wrong[0] / 1000 >= 0.05 - error
        assert abs(right - plain) < 0.04 * 1000


def test_false_discoveries_hold_where_samples_do_not_know_their_tails() -> None:
    """150 runs at the boundary, 25 clusters with tails against the effect; a head's own draws alone are too few."""
    rng, wrong, by_own_draws = np.random.default_rng(2), 0, 0
    for _ in range(150):
        gap = rng.gamma(20, 1, (25, 1))
        noise = 1 / 3 - 3 * rng.gamma(1 / 9, 1, (25, 48))
        test = MinimumEffect([Sums(gap * (0.02 + 0.05 * noise), gap)])
        nulls = [test.null(draw, 1199, rng, centred) for draw, centred in ((flips, False), (resamples, True))]
        wrong += (false_discoveries(nulls, test.statistic) <= 0.05).any()
        own = np.maximum(*[null.own(test.statistic) for null in nulls])
        by_own_draws += (over_heads(own) <= 0.05).any()
    assert wrong / 150 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)
    assert by_own_draws / 150 > 0.2
