//! Exec, attach and port-forward: the promise of a URL, which the streaming server then keeps.

use tonic::Status;

use super::{Service, error, validate};
use crate::api;
use crate::pod::PodError;
use crate::runtime::Wants;
use crate::streaming::{Promise, TooMany};

impl Service {
    pub(super) fn exec(&self, request: api::ExecRequest) -> Result<String, Status> {
        const RPC: &str = "Exec";
        let (stdin, stdout, stderr, tty) = (request.stdin, request.stdout, request.stderr, request.tty);
        let wants = Wants { stdin, stdout, stderr, tty };
        let checked = streams(wants).and_then(|()| validate::command(&request.cmd));
        checked.map_err(|e| error::pod(RPC, e))?;
        let container = self.pods.can_exec(&request.container_id).map_err(|e| error::pod(RPC, e))?;
        self.promise(Promise::Exec { container: container.to_string(), command: request.cmd, wants })
    }

    pub(super) fn attach(&self, request: &api::AttachRequest) -> Result<String, Status> {
        const RPC: &str = "Attach";
        let (stdin, stdout, stderr, tty) = (request.stdin, request.stdout, request.stderr, request.tty);
        let wants = Wants { stdin, stdout, stderr, tty };
        streams(wants).map_err(|e| error::pod(RPC, e))?;
        let container = self.pods.can_attach(&request.container_id).map_err(|e| error::pod(RPC, e))?;
        self.promise(Promise::Attach { container: container.to_string(), wants })
    }

    pub(super) fn port_forward(&self, request: &api::PortForwardRequest) -> Result<String, Status> {
        const RPC: &str = "PortForward";
        let port = |port: &i32| u16::try_from(*port).ok().filter(|port| *port > 0);
        let ports: Option<Vec<u16>> = request.port.iter().map(port).collect();
        let invalid = || PodError::invalid("port", format!("{:?} are not all ports", request.port));
        let ports = ports.ok_or_else(|| error::pod(RPC, invalid()))?;
        let pod = self.pods.ready_pod(&request.pod_sandbox_id).map_err(|e| error::pod(RPC, e))?;
        self.promise(Promise::PortForward { pod: pod.facts.id.to_string(), ports })
    }

    fn promise(&self, promise: Promise) -> Result<String, Status> {
        self.streaming
            .promise(promise)
            .map_err(|error: TooMany| Status::resource_exhausted(error.to_string()))
    }
}

fn streams(wants: Wants) -> Result<(), PodError> {
    if wants.tty && wants.stderr {
        return Err(PodError::invalid(
            "stderr",
            "with a tty there is one output alone, so stderr must be false",
        ));
    }
    if !wants.stdin && !wants.stdout && !wants.stderr {
        return Err(PodError::invalid("stdout", "one of stdin, stdout and stderr must be true"));
    }
    Ok(())
}
