"""The chain as a deployment runs it: by a button, with the profile as its one parameter (flows/serve.py)."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, tags
from prefect.states import Completed, Failed, State

from flows import chain
from flows.graph import GraphError
from flows.workspace import WorkspaceError, prepare
from tasks.params import ParamsError


@flow(name="chain", persist_result=False, flow_run_name="chain of {profile}")
def run(profile: str = "default") -> State:
    """Run every stage that is not up to date, of the checkout itself (default) or of a profile's workspace.

    Args:
        profile: a file of profiles/ without its ending; default is params.yaml as it stands
    """
    root = Path.cwd()
    try:
        workspace = root if profile == "default" else prepare(root, profile)
    except (ParamsError, WorkspaceError, GraphError, OSError) as error:
        return Failed(message=str(error))
    with chain.turn(workspace) as tag, tags(tag):
        state = chain.chain(str(workspace), profile, chain.commit_of(workspace), return_state=True)
    return (Completed if state.is_completed() else Failed)(message=state.message)
