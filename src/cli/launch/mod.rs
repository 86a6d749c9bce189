//! `kolosal launch`: an agent on a model of this machine, without changing its own configuration.

mod clients;
mod served;

use std::process::{Command, ExitStatus};

use super::App;
use super::args::LaunchArgs;
use super::failure::{Failure, Outcome};
use clients::{CLIENTS, Client, Run, Target};
use served::{Plan, SMALL_CONTEXT, Started, log_file, plan};

pub(super) fn run(app: &App, args: &LaunchArgs) -> Outcome {
    let client = client(&args.agent)?;
    let plan = plan(app, args)?;
    if args.print {
        return print(app, args, client, &plan);
    }
    if !is_installed(client.name) {
        let Client { name, install, .. } = client;
        return Err(Failure::failed(format!("{name} is not installed; to install it: {install}")));
    }
    let (started, target) = match plan {
        Plan::There(target) => (None, target),
        Plan::Start(model) => {
            app.out.note(format!("starting a server with {model}"));
            if let Some(log) = log_file(app) {
                app.out.note(format!("its log: {}", log.display()));
            }
            let started = Started::new(app, args, &model)?;
            let target = started.target.clone();
            (Some(started), target)
        }
    };
    app.out.note(format!("{} on {} at {}", client.name, target.model, target.url));
    if let Some(context) = target.context.filter(|context| *context < SMALL_CONTEXT) {
        app.out.note(format!(
            "a context of {context} tokens is little for an agent; serve with --n-ctx 32768 if the model \
             and the memory allow it"
        ));
    }
    let ended = wait(&client.run(&target, &args.args));
    drop(started);
    ended
}

fn client(name: &str) -> Outcome<&'static Client> {
    CLIENTS.iter().find(|client| client.name == name).ok_or_else(|| {
        let names = CLIENTS.map(|client| client.name).join(", ");
        Failure::usage(format!("there is no agent {name} here; there are {names}"))
    })
}

/// Shows what would be done, and does none of it.
fn print(app: &App, args: &LaunchArgs, client: &Client, plan: &Plan) -> Outcome {
    let target = match plan {
        Plan::There(target) => target.clone(),
        Plan::Start(model) => {
            app.out.line(format!("# starts: kolosal serve {model}, until {} ends", client.name))?;
            let url = "http://127.0.0.1:PORT".to_owned();
            Target { url, key: None, model: model.clone(), context: None }
        }
    };
    let secret = target.key.clone();
    app.out.line(client.run(&target, &args.args).as_shell(secret.as_deref()))
}

fn is_installed(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let names = [program.to_owned(), format!("{program}.exe"), format!("{program}.cmd")];
    std::env::split_paths(&folders)
        .any(|folder| names.iter().any(|name| folder.join(name).is_file()))
}

/// Runs the agent to its end; what it ends with is ours.
fn wait(run: &Run) -> Outcome {
    let runtime = App::runtime(1)?;
    let _entered = runtime.enter();
    // Taken here, Ctrl-C is the agent's matter alone.
    runtime.spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    let mut command = Command::new(run.program);
    command.args(&run.args).envs(run.variables.iter().map(|(name, value)| (name, value)));
    let status = command
        .status()
        .map_err(|error| Failure::failed(format!("{} cannot be run: {error}", run.program)))?;
    match code(status) {
        0 => Ok(()),
        code => Err(Failure::Ended(code)),
    }
}

/// The exit code, or that of a shell for a program that a signal ended.
fn code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    let signal = None;
    let code = status.code().or(signal.map(|signal: i32| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
