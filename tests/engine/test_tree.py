import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.tree import TokenTree


@st.composite
def trees(draw: st.DrawFn) -> TokenTree:
    tree = TokenTree.root(draw(st.integers(0, 9)))
    for _ in range(draw(st.integers(0, 40))):
        parent = draw(st.integers(0, len(tree) - 1))
        tree.add(parent, draw(st.integers(0, 9)), draw(st.floats(0.01, 1.0)))
    return tree


def by_path(tree: TokenTree) -> dict[tuple[int, ...], float]:
    return {tuple(tree.path(node)): tree.scores[node] for node in range(1, len(tree))}


def test_a_token_proposed_twice_after_one_node_is_one_node_with_the_higher_chance():
    tree = TokenTree.root(7)
    first = tree.add(0, 3, 0.2)
    below = tree.add(tree.add(first, 4, 0.5), 5, 0.5)
    assert tree.add(0, 3, 0.8) == first
    assert tree.add(0, 3, 0.4) == first
    assert len(tree) == 4
    assert tree.chances[first] == 0.8
    assert tree.scores[first] == pytest.approx(0.8)
    assert tree.scores[below] == pytest.approx(0.8 * 0.5 * 0.5), "descendants follow"


@pytest.mark.parametrize("chance", [0.0, -0.5, 1.5])
def test_a_chance_outside_zero_to_one_is_refused(chance: float):
    with pytest.raises(ValueError, match="probability"):
        TokenTree.root(0).add(0, 1, chance)


@given(trees())
def test_parents_precede_children_and_every_node_is_found_along_its_path(tree: TokenTree):
    for node in range(1, len(tree)):
        assert tree.parents[node] < node
        assert tree.depths[node] == len(tree.path(node))
        assert tree.children(tree.parents[node])[tree.tokens[node]] == node
        found = 0
        for token in tree.path(node):
            found = tree.child(found, token)
            assert found is not None
        assert found == node


@given(trees())
def test_a_score_is_the_product_of_the_chances_on_the_path_and_never_rises(tree: TokenTree):
    for node in range(1, len(tree)):
        parent = tree.parents[node]
        assert tree.scores[node] == pytest.approx(tree.scores[parent] * tree.chances[node])
        assert tree.scores[node] <= tree.scores[parent]


@given(trees())
def test_ranking_falls_and_puts_parents_before_children(tree: TokenTree):
    ranked = tree.ranked()
    scores = [tree.scores[node] for node in ranked]
    assert sorted(ranked) == list(range(1, len(tree)))
    assert scores == sorted(scores, reverse=True)
    place = {0: -1} | {node: at for at, node in enumerate(ranked)}
    assert all(place[tree.parents[node]] < place[node] for node in ranked)


@given(trees(), st.integers(0, 50))
def test_pruning_keeps_a_tree_of_the_most_probable_paths(tree: TokenTree, size: int):
    pruned = tree.only(tree.ranked()[:size])
    assert len(pruned) == 1 + min(size, len(tree) - 1)
    paths, kept = by_path(tree), by_path(pruned)
    assert kept.keys() <= paths.keys()
    assert all(score == pytest.approx(paths[path]) for path, score in kept.items())
    dropped = paths.keys() - kept.keys()
    assert max((paths[path] for path in dropped), default=0) <= min(kept.values(), default=1) + 1e-9
