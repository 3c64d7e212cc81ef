"""Groups of related categories, found in knowledge, and the file in which a user may change them."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx

from ovml_deploy.errors import DataError, UsageError
from ovml_deploy.files import write_atomically
from ovml_deploy.training.data.text_files import read_text, some
from ovml_deploy.training.knowledge.file import CO_OCCURS, SHARES, Knowledge

#: The group of what is related to nothing.
OTHER = "other"
_SMALLEST = 2
# What is a kind of what makes stars around general categories, and what occurs together crosses
# kinds, so both bind less than what is alike.
_WEIGHTS = {SHARES: 1.0, CO_OCCURS: 0.5}
_BROADER_WEIGHT = 0.3


def cluster(
    knowledge: Knowledge, resolution: float = 2.0, seed: int = 0
) -> dict[str, tuple[str, ...]]:
    """Return disjoint groups of related categories that cover all, the largest first.

    They are the Louvain communities of the relations and of what is a kind of what (Blondel et al.
    2008, arXiv 0803.0476); a greater ``resolution`` gives more and smaller ones. A group is named
    after its broadest or best connected category; what is related to nothing is in the group
    "other". Raises UsageError for a resolution that is not above 0.
    """
    if not 0 < resolution < float("inf"):
        raise UsageError(f"The resolution of groups is {resolution}; it must be above 0.")
    names, graph = knowledge.names, _graph(knowledge)
    found = nx.community.louvain_communities(graph, resolution=resolution, seed=seed)
    communities = sorted(map(sorted, found), key=lambda rows: (-len(rows), rows))
    groups = dict[str, tuple[str, ...]]()
    rest = list[int]()
    for rows in communities:
        centre = names[_centre(knowledge, graph, rows)]
        if len(rows) < _SMALLEST or centre == OTHER:
            rest += rows
        else:
            groups[centre] = tuple(names[row] for row in rows)
    if rest:
        groups[OTHER] = tuple(names[row] for row in sorted(rest))
    return groups


def restrict(
    groups: Mapping[str, Sequence[str]], names: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Return the groups with those of their categories that are in ``names``, if there are any."""
    wanted = set(names)
    restricted = {
        group: tuple(name for name in members if name in wanted)
        for group, members in groups.items()
    }
    return {group: members for group, members in restricted.items() if members}


def write_groups(groups: Mapping[str, Sequence[str]], path: str | Path) -> None:
    """Write groups as JSON, one a line."""
    lines = ",\n".join(
        f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(list(members), ensure_ascii=False)}"
        for name, members in groups.items()
    )
    with write_atomically(path) as temporary:
        temporary.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def read_groups(path: str | Path, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Read groups that a user may have changed; each of ``names`` must be in exactly one.

    Raises DataError for what is not such a file, naming the group or categories.
    """
    source = Path(path)
    text = read_text(source)
    try:
        return _parse(json.loads(text, object_pairs_hook=_object), tuple(names))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{str(source)!r} is not JSON: {error}.") from error
    except DataError as error:
        raise DataError(f"{str(source)!r}: {error}") from error


def _graph(knowledge: Knowledge) -> nx.Graph:
    """Return the graph of the categories' rows: numbers, for the order of texts in sets varies."""
    row = {name: number for number, name in enumerate(knowledge.names)}
    graph = nx.Graph()
    graph.add_nodes_from(row.values())
    weights = defaultdict[tuple[int, int], float](float)
    for relation in knowledge.relations:
        first, second = sorted((row[relation.first], row[relation.second]))
        weights[first, second] += _WEIGHTS[relation.kind]
    for category in knowledge.categories:
        for broader in category.broader:
            first, second = sorted((row[category.name], row[broader]))
            weights[first, second] += _BROADER_WEIGHT
    graph.add_weighted_edges_from((*pair, weight) for pair, weight in sorted(weights.items()))
    return graph


def _centre(knowledge: Knowledge, graph: nx.Graph, rows: Sequence[int]) -> int:
    """The category with the most kinds and relations in its group; of several, the first."""
    names = knowledge.names
    kinds = Counter(name for row in rows for name in knowledge.categories[row].broader)
    links = graph.subgraph(rows).degree(weight="weight")
    return max(rows, key=lambda row: (kinds[names[row]] + links[row], -row))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object. Raises DataError for a name that stands twice; json would take the last."""
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise DataError(f"the group {name!r} stands there {count} times. Join them.")
    return dict(pairs)


def _parse(data: Any, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if not isinstance(data, dict):
        raise DataError(f'these are no groups but {data!r:.60}; write {{"pets": ["cat", "dog"]}}.')
    owner: dict[str, str] = {}
    for group, members in data.items():
        _check_group(group, members)
        for name in members:
            if name not in names:
                raise DataError(
                    f"the group {group!r} has {name!r}, which is none of the categories."
                )
            if name in owner:
                raise DataError(
                    f"{name!r} is in {owner[name]!r} and again in {group!r}. Leave it in one."
                )
            owner[name] = group
    missing = [name for name in names if name not in owner]
    if missing:
        raise DataError(
            f"no group has {some(missing)}. Add what is missing to a group, such as {OTHER!r}."
        )
    return {group: tuple(members) for group, members in data.items()}


def _check_group(group: str, members: Any) -> None:
    if not group.strip():
        raise DataError(f"a group with the name {group!r}: give it one.")
    if not isinstance(members, list) or not all(isinstance(name, str) for name in members):
        raise DataError(f"the group {group!r} is {members!r:.60}, not a list of categories.")
    if not members:
        raise DataError(f"the group {group!r} has no categories. Remove it.")
