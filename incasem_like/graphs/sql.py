"""A graph in an SQL database, SQLite or PostgreSQL, through SQLAlchemy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy
from sqlalchemy import exc
from sqlalchemy.schema import CreateIndex, CreateTable

from incasem_like.errors import IncasemError, InputError
from incasem_like.graphs.store import Columns, Table, check_claim, edges_from, signed_ids
from incasem_like.volumes import NanometreRoi

ATTEMPTS, SECONDS_BETWEEN_ATTEMPTS = 20, 0.25
SECONDS_TO_WAIT_FOR_A_LOCK = 300
IDS = ("id", "u", "v")


class SqlGraph:
    """A graph store in an SQL database, with the tables ``meta``, ``nodes``, and ``edges_<scoring>`` or ``edges``.

    Ids are stored as signed integers of 64 bits, undefined scores as NULL. Several processes may write at a time.

    Args:
        url: ``sqlite:////path/to/graph.db`` or ``postgresql://user@host/database``.
        scoring: Scoring function of the edges.

    >>> import tempfile
    >>> graph = SqlGraph(f"sqlite:///{tempfile.mkdtemp()}/graph.db", "mean")
    >>> graph.write_edges(7, {"u": np.array([1]), "v": np.array([2]), "merge_score": np.array([0.25])})
    >>> graph.read_edges()["merge_score"].tolist()
    [0.25]
    """

    def __init__(self, url: str, scoring: str = "") -> None:
        self.url, self.edges = url, f"edges_{scoring}" if scoring else "edges"

    @cached_property
    def engine(self) -> sqlalchemy.Engine:
        """The connections of this process."""
        try:
            url = sqlalchemy.make_url(self.url)
            if url.drivername == "postgresql":
                url = url.set(drivername="postgresql+psycopg2")
            file = Path(url.database or "") if url.drivername == "sqlite" else Path()
            if not file.parent.is_dir():
                raise InputError(f"The folder of the graph store {self} does not exist: create {file.parent}.")
            options: dict[str, Any] = {"timeout": SECONDS_TO_WAIT_FOR_A_LOCK} if url.drivername == "sqlite" else {}
            return sqlalchemy.create_engine(url, connect_args=options, poolclass=sqlalchemy.NullPool)
        except (sqlalchemy.exc.ArgumentError, ImportError) as error:
            raise InputError(
                f"The graph store {self} cannot be opened ({error}): correct the URL, or install the database's "
                "driver, such as pip install 'incasem-like[postgresql]'."
            ) from None

    def __str__(self) -> str:
        return sqlalchemy.make_url(self.url).render_as_string(hide_password=True)

    def claim(self, segmentation: str) -> None:
        """Note the segmentation that the graph belongs to; see ``GraphStore``."""
        table = sqlalchemy.Table(
            "meta", sqlalchemy.MetaData(), sqlalchemy.Column("segmentation", sqlalchemy.Text, primary_key=True)
        )

        def work(connection: sqlalchemy.Connection) -> None:
            if connection.dialect.name == "postgresql":  # against another process that looks now
                connection.exec_driver_sql("LOCK TABLE meta IN EXCLUSIVE MODE")
            found = connection.execute(table.select()).scalar()
            check_claim(found, segmentation, str(self))
            if found is None:
                connection.execute(table.insert(), [{"segmentation": segmentation}])

        self._create(table)
        self._transaction(work)

    def clear(self) -> None:
        """Remove nodes, edges of all scoring functions, and the claim."""

        def work(connection: sqlalchemy.Connection) -> None:
            for name in sqlalchemy.inspect(connection).get_table_names():
                if name in ("meta", "nodes", "edges") or name.startswith("edges_"):
                    sqlalchemy.Table(name, sqlalchemy.MetaData()).drop(connection)

        self._transaction(work)

    def write_nodes(self, block: int, nodes: Table) -> None:
        """Write the nodes of one block, replacing what that block wrote before."""
        self._write("nodes", block, nodes)

    def write_edges(self, block: int, edges: Table) -> None:
        """Write the edges of one block, replacing what that block wrote before."""
        self._write(self.edges, block, edges)

    def read_nodes(self, roi: NanometreRoi | None = None) -> Columns:
        """Return all nodes, or those with their centre in an ROI, in ascending order of their ids."""

        def inside(table: sqlalchemy.Table) -> list[Any]:
            if roi is None:
                return []
            limits = zip("zyx", roi.offset, roi.shape, strict=True)
            return [
                condition
                for axis, begin, length in limits
                for condition in (table.c[axis] >= begin, table.c[axis] < begin + length)
            ]

        return self._read("nodes", inside, ("id",))

    def read_edges(self, nodes: npt.NDArray[np.uint64] | None = None) -> Columns:
        """Return all edges, or those whose ``u`` is among some nodes, in the order of blocks."""
        if nodes is not None and not len(nodes):
            return {name: values[:0] for name, values in self.read_edges().items()}
        between = None if nodes is None else (int(nodes.min()), int(nodes.max()))
        edges = self._read(
            self.edges, lambda table: [] if between is None else [table.c.u.between(*between)], ("block", "u", "v")
        )
        return edges_from(edges, nodes)

    def _write(self, name: str, block: int, columns: Table) -> None:
        stored = {key: signed_ids(values, str(self)) if key in IDS else values for key, values in columns.items()}
        table = sqlalchemy.Table(
            name,
            sqlalchemy.MetaData(),
            sqlalchemy.Column("block", sqlalchemy.BigInteger, index=True),
            *(
                sqlalchemy.Column(key, _sql_type(values.dtype), index=key in ("id", "u"))
                for key, values in stored.items()
            ),
        )
        if "z" in stored:
            sqlalchemy.Index(f"{name}_position", table.c.z, table.c.y, table.c.x)
        lists = [[None if value != value else value for value in values.tolist()] for values in stored.values()]
        rows = [dict(zip(stored, row, strict=True), block=block) for row in zip(*lists, strict=True)]

        def work(connection: sqlalchemy.Connection) -> None:
            connection.execute(table.delete().where(table.c.block == block))
            if rows:
                connection.execute(table.insert(), rows)

        self._create(table)
        self._transaction(work)

    def _read(self, name: str, conditions: Callable[[sqlalchemy.Table], list[Any]], order: tuple[str, ...]) -> Columns:
        found: Columns = {}

        def work(connection: sqlalchemy.Connection) -> None:
            if not sqlalchemy.inspect(connection).has_table(name):
                return
            table = sqlalchemy.Table(name, sqlalchemy.MetaData(), autoload_with=connection)
            wanted = [column for column in table.c if column.name != "block"]
            query = sqlalchemy.select(*wanted).where(*conditions(table)).order_by(*(table.c[key] for key in order))
            rows = connection.execute(query).fetchall()
            values = list(zip(*rows, strict=True)) or [()] * len(wanted)
            found.update((column.name, _array(column, value)) for column, value in zip(wanted, values, strict=True))

        self._transaction(work)
        return found

    def _create(self, table: sqlalchemy.Table) -> None:
        """Create a table with its indices, in a transaction of its own: locks of indices are held until the end."""

        def work(connection: sqlalchemy.Connection) -> None:
            if sqlalchemy.inspect(connection).has_table(table.name):
                return
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))

        self._transaction(work)

    def _transaction(self, work: Callable[[sqlalchemy.Connection], None]) -> None:
        """Run a transaction.

        It is retried where another process may have created the same table at the same time.

        Raises:
            IncasemError: The database cannot be reached, read or written.
        """
        for attempt in range(ATTEMPTS):
            try:
                with self.engine.connect() as connection:
                    if connection.dialect.name == "sqlite":  # otherwise a reader that begins to write may fail
                        connection.exec_driver_sql("BEGIN IMMEDIATE")
                    work(connection)
                    connection.commit()
                return
            except exc.DBAPIError as error:
                raced = isinstance(error, exc.ProgrammingError | exc.IntegrityError)
                if not raced or attempt == ATTEMPTS - 1:
                    reason = " ".join(str(error.orig).split())
                    raise IncasemError(f"The graph store {self} cannot be read or written: {reason}") from error
                time.sleep(SECONDS_BETWEEN_ATTEMPTS)


def _sql_type(dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f":
        return sqlalchemy.REAL if dtype.itemsize <= 4 else sqlalchemy.Double
    return sqlalchemy.Boolean if dtype.kind == "b" else sqlalchemy.BigInteger


def _array(column: sqlalchemy.Column[Any], values: Sequence[Any]) -> npt.NDArray[Any]:
    if isinstance(column.type, sqlalchemy.Float):
        single = isinstance(column.type, sqlalchemy.REAL)
        return np.array([np.nan if value is None else value for value in values], np.float32 if single else np.float64)
    if isinstance(column.type, sqlalchemy.Boolean):
        return np.array(values, bool)
    return np.array(values, np.int64).astype(np.uint64 if column.name in IDS else np.int64)
