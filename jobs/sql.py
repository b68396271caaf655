"""Ask published runs a question in SQL, or a named one.

python -m jobs.sql --out out/atlas "SELECT method, mean FROM summary WHERE metric = 'energy' AND scope = 'all'"
python -m jobs.sql --out out/atlas --query faithful
python -m jobs.sql --out out/atlas --list
"""

import contextlib
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pipeline import tables
from pipeline.refusal import Refusal, choose
from pipeline.run.exit_codes import exit_code_of
from pipeline.spec.command_line import command_line
from pipeline.tables import files, sql
from pipeline.tables.queries import QUERIES

if TYPE_CHECKING:
    import duckdb

Format = Literal["table", "csv", "json", "parquet"]
Appended = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class Sql:
    """Ask published runs a question in SQL (DuckDB's), or a named one. Each table of a run is a view of its name; --list shows them."""

    question: Annotated[str, tyro.conf.Positional] = ""
    """The question in SQL."""
    out: str
    """Where tables go: the --out of the jobs. It is only read."""
    name: Appended = ()
    """The published run to ask, by the --name of its job; `default` unless given. Of several (--name a --name b) each is a schema of its
    name, and the bare tables hold the rows of all of them with a column `name`."""
    run: str | None = None
    """One run by its id, published or not any more, in place of --name."""
    against: str | None = None
    """Another run beside it: a run id, a published name, `previous` for the run before, or PLACE#NAME for one below another --out. The two are
    then the schemas `now` and `before`."""
    query: str | None = None
    """A named query in place of a question."""
    set: Appended = ()
    """A setting of the named query, as limit=5."""
    list: bool = False
    """List the tables with their columns, the functions of maps, and the named queries with their settings."""
    format: Format = "table"
    """table for people; csv, json (a line a row) and parquet hold all rows and columns."""
    to: str | None = None
    """File or URL for the answer, in place of the screen; parquet needs one."""


def runs_of(job: Sql) -> dict[str, tables.Run]:
    """The runs of a job, by the name they have in queries.

    Raises:
        Refusal: where one of them does not exist, or `against` has no single run beside it.
    """
    names = job.name or ("default",)
    if len(names) > 1:
        if job.run or job.against:
            raise Refusal("--run and --against are about one run: give a single --name")
        return {name: tables.open(job.out, name) for name in names}
    now = tables.open(job.out, names[0], job.run)
    return {"now": now} if job.against is None else {"now": now, "before": tables.find(job.out, job.against, now)}


def question_of(job: Sql) -> tuple[str, dict[str, int | str]]:
    """The job's question in SQL and the values of its `$name`.

    Raises:
        Refusal: where there is no question, or two, or settings that are not the query's.
    """
    if bool(job.question) == bool(job.query):
        raise Refusal("give a question in SQL, or --query NAME; --list shows the tables and the named queries")
    if job.question and job.set:
        raise Refusal("--set is for --query: a question holds its values itself")
    if job.question:
        return job.question, {}
    query = QUERIES[choose(str(job.query), QUERIES, "query")]
    return query.sql, query.parameters(job.set)


def listing(connection: "duckdb.DuckDBPyConnection") -> str:
    """The tables with their columns, the functions of maps, and the named queries with their settings."""
    lines = [f"{table}: {', '.join(names)}" for table, names in sql.columns(connection).items()]
    lines += ["", "functions (m is a row of maps, box as in images.boxes; k of n is a share): " + ", ".join(sql.FUNCTIONS), ""]
    for query in QUERIES.values():
        lines.append(f"--query {query.name}: {query.question}")
        lines += [f"    --set {name}={setting.default}: {setting.meaning}" for name, setting in query.settings.items()]
    return "\n".join(lines)


def write(rows: "duckdb.DuckDBPyRelation", connection: "duckdb.DuckDBPyConnection", form: Format, to: str | None) -> None:
    """Write the rows to the screen or to a file.

    Raises:
        Refusal: where Parquet would go to the screen.
    """
    if form == "parquet" and not to:
        raise Refusal("--format parquet needs --to FILE")
    if form == "table" and not to:
        sql.show(rows)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "answer")
        if form == "table":
            with path.open("w") as file, contextlib.redirect_stdout(file):
                sql.show(rows)
        else:
            rows.create_view("answer_of_this_question")
            connection.execute(f"COPY answer_of_this_question TO '{path}' (FORMAT {form})")
        if to:
            files.write_bytes(to, path.read_bytes())
        else:
            with path.open("rb") as content:
                shutil.copyfileobj(content, sys.stdout.buffer)


def main(arguments: list[str] | None = None) -> int:
    """Answer the question of a command line; returns the exit code."""
    return exit_code_of(lambda: run_and_report(command_line(Sql, "jobs.sql", arguments)))


def run_and_report(job: Sql) -> int:
    """Answer the question; returns the exit code."""
    with sql.connect(runs_of(job)) as connection:
        if job.list:
            print(listing(connection))
            return 0
        question, parameters = question_of(job)
        with sql.refusing(connection, question):
            write(sql.query(connection, question, parameters), connection, job.format, job.to)
    return 0


if __name__ == "__main__":
    sys.exit(main())
