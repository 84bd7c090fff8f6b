//! Training on several devices at once: every process takes its rows of each batch, and the
//! gradients are averaged.
//!
//! What a step draws is a function of the seed, the step and the place in the batch. So each of the
//! processes plans the *whole* batch, which is a few numbers an image, and makes, noises and runs
//! its own rows alone: the number of processes changes nothing but the order in which a gradient is
//! summed. All of them end a step with the same weights, to the bit, because all of them see the
//! same sums.
//!
//! How many there are and which one this is, is read from what `torchrun`, `mpirun` and `srun` set.
//! Sums are the device's business: on GPUs NCCL's, whose 128-byte identity the processes agree on
//! by [`meet`]. Both sides of a meeting prove that they know the run's [`Secret`], which never goes
//! over the network itself; rank 0 listens where the others look for it, and not at all addresses
//! of its machine.

use core::time::Duration;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::path::{Path, PathBuf};
use tweedie::error::{Error, Result};

/// Where the processes meet unless `MASTER_PORT` says otherwise: torchrun's own port.
const PORT: u16 = 29500;

/// Which of how many processes this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// This process, from 0.
    pub rank: usize,
    /// Processes in all.
    pub size: usize,
    /// This process among those of its machine: the number of its device.
    pub local_rank: usize,
    /// Host and port at which rank 0 can be met; none for a process alone.
    pub meeting: Option<(String, u16)>,
}

/// Names under which a launcher tells rank, size and local rank.
struct Launcher {
    name: &'static str,
    rank: &'static str,
    /// The first that is set.
    size: &'static [&'static str],
    local_rank: &'static [&'static str],
    /// Where rank 0 runs, beside `MASTER_ADDR`.
    host: Option<&'static str>,
    /// What tells that all run on one machine: processes on this one, which are then all, or
    /// machines, which are then one.
    one_machine: (&'static str, Option<usize>),
}

/// In the order in which they count: torchrun may run below srun, and mpirun inside a Slurm job.
const LAUNCHERS: [Launcher; 4] = [
    Launcher {
        name: "torchrun",
        rank: "RANK",
        size: &["WORLD_SIZE"],
        local_rank: &["LOCAL_RANK"],
        host: None,
        one_machine: ("LOCAL_WORLD_SIZE", None),
    },
    Launcher {
        name: "mpirun",
        rank: "OMPI_COMM_WORLD_RANK",
        size: &["OMPI_COMM_WORLD_SIZE"],
        local_rank: &["OMPI_COMM_WORLD_LOCAL_RANK"],
        host: None,
        one_machine: ("OMPI_COMM_WORLD_LOCAL_SIZE", None),
    },
    Launcher {
        name: "mpiexec",
        rank: "PMI_RANK",
        size: &["PMI_SIZE"],
        local_rank: &["MPI_LOCALRANKID", "PMI_LOCAL_RANK"],
        host: None,
        one_machine: ("MPI_LOCALNRANKS", None),
    },
    Launcher {
        name: "srun",
        rank: "SLURM_PROCID",
        size: &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"],
        local_rank: &["SLURM_LOCALID"],
        host: Some("SLURM_LAUNCH_NODE_IPADDR"),
        one_machine: ("SLURM_STEP_NUM_NODES", Some(1)),
    },
];

impl World {
    /// One process alone.
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, local_rank: 0, meeting: None }
    }

    /// What the launcher says, through `variable`, which looks up the environment; alone where no
    /// launcher speaks.
    ///
    /// # Errors
    /// A rank without a size, or a size without a rank; what is no number; a rank beyond the size;
    /// several processes, and no word of where rank 0 is.
    ///
    /// # Example
    /// ```
    /// use tweedie_nn::train::parallel::World;
    /// let set = [("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "node0"), ("MASTER_PORT", "29400")];
    /// let look_up = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
    /// let world = World::read(look_up).unwrap();
    /// assert_eq!((world.rank, world.size, world.local_rank), (5, 8, 1));
    /// assert_eq!(world.meeting, Some(("node0".to_owned(), 29400)));
    /// // Its rows of a batch of 256.
    /// assert_eq!(world.rows(256).unwrap(), 160..192);
    /// ```
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(value) = variable(name) else { return Ok(None) };
            let refuse = |_| {
                Error::domain(
                    name,
                    format!("'{value}'"),
                    "a whole number from 0",
                    "correct the launcher's environment",
                )
            };
            value.trim().parse().map(Some).map_err(refuse)
        };
        let first = |names: &[&'static str]| -> Result<Option<(&'static str, usize)>> {
            for name in names {
                if let Some(value) = number(name)? {
                    return Ok(Some((*name, value)));
                }
            }
            Ok(None)
        };
        for launcher in &LAUNCHERS {
            let half = |there: &str, missing: &str| {
                let mend = format!("start through {}, or unset {there}", launcher.name);
                Err(Error::domain(
                    missing,
                    "nothing",
                    format!("a number, because {there} is set"),
                    mend,
                ))
            };
            let (rank, (size_name, size)) = match (number(launcher.rank)?, first(launcher.size)?) {
                (Some(rank), Some(size)) => (rank, size),
                (Some(_), None) => return half(launcher.rank, launcher.size[0]),
                // Slurm tells a job's tasks to its script too, which is none of them.
                (None, Some(_)) if launcher.host.is_some() => continue,
                (None, Some((size, _))) => return half(size, launcher.rank),
                (None, None) => continue,
            };
            if rank >= size {
                let allowed = format!("0 to {}, because {size_name} is {size}", size as i64 - 1);
                return Err(Error::domain(
                    launcher.rank,
                    rank,
                    allowed,
                    "correct the launcher's environment",
                ));
            }
            if size == 1 {
                return Ok(Self::alone());
            }
            let (local_name, local_rank) =
                first(launcher.local_rank)?.unwrap_or((launcher.local_rank[0], rank));
            if local_rank > rank {
                let allowed = format!("0 to {rank}, because {} is {rank}", launcher.rank);
                return Err(Error::domain(
                    local_name,
                    local_rank,
                    allowed,
                    "correct the launcher's environment",
                ));
            }
            // All on one machine need nobody else to reach them.
            let (of_machine, whole) = launcher.one_machine;
            let here = variable(of_machine)
                .is_some_and(|n| n == whole.unwrap_or(size).to_string())
                .then(|| "127.0.0.1".to_owned());
            let Some(host) =
                here.or_else(|| variable("MASTER_ADDR")).or_else(|| variable(launcher.host?))
            else {
                let mend = "set it to the name of the machine of rank 0, for example mpirun -x MASTER_ADDR=node0";
                return Err(Error::domain(
                    "MASTER_ADDR",
                    "nothing",
                    format!("a host, for {size} processes"),
                    mend,
                ));
            };
            let port = match variable("MASTER_PORT") {
                None => PORT,
                Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
                    Error::domain(
                        "MASTER_PORT",
                        format!("'{port}'"),
                        "1 to 65535",
                        "choose a port that is free on rank 0's machine",
                    )
                })?,
            };
            return Ok(Self { rank, size, local_rank, meeting: Some((host, port)) });
        }
        Ok(Self::alone())
    }

    /// The rows of a batch that this process takes.
    ///
    /// # Errors
    /// A batch that is no multiple of the number of processes: their means would weigh unequally.
    pub fn rows(&self, batch: usize) -> Result<Range<usize>> {
        if batch == 0 || !batch.is_multiple_of(self.size) {
            let allowed = format!("a multiple of {}, the number of processes", self.size);
            let mend = format!(
                "choose {}, or another number of processes",
                batch.next_multiple_of(self.size).max(self.size)
            );
            return Err(Error::domain("batch", batch, allowed, mend));
        }
        let share = batch / self.size;
        Ok(self.rank * share..(self.rank + 1) * share)
    }
}

/// What rank 0 tells all others: NCCL's identity of their communicator.
pub type Identity = [u8; 128];

/// What the processes of a run know, and nobody else does.
#[derive(Clone, Debug, PartialEq)]
pub enum Secret {
    /// A text that each of them was told.
    Told(String),
    /// A file that rank 0 writes, for its user's eyes only, before the others come, and removes
    /// when all are there.
    Written(PathBuf),
}

/// The environment's variable with a secret.
const SECRET: &str = "TWEEDIE_SECRET";

impl Secret {
    /// Shortest text that is taken for a secret.
    const LEAST: usize = 16;

    /// The one of a run that is written to `out`: `TWEEDIE_SECRET`, as `variable` tells it, else a
    /// file in that folder.
    ///
    /// # Errors
    /// A text that is too short to be one.
    pub fn of_run(out: &Path, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        match variable(SECRET) {
            None => Ok(Self::Written(out.join(".tweedie-secret"))),
            Some(text) if text.len() >= Self::LEAST => Ok(Self::Told(text)),
            Some(text) => {
                let allowed = format!("{} or more, at random", Self::LEAST);
                Err(Error::domain(
                    SECRET,
                    format!("{} characters", text.len()),
                    allowed,
                    "set it to the output of openssl rand -hex 16, everywhere",
                ))
            }
        }
    }

    /// Rank 0's side: the key, made where it is not told.
    fn made(&self) -> Result<(Key, Option<Shown<'_>>)> {
        let path = match self {
            Self::Told(text) => return Ok((Sha256::digest(text).into(), None)),
            Self::Written(path) => path,
        };
        let refused = |e: std::io::Error| {
            Error::file(
                path,
                format!("cannot be written: {e}"),
                "pass an --out that may be written, or set TWEEDIE_SECRET",
            )
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(refused)?;
        let key = nonce()?;
        // Temporary files are their owner's alone.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(refused)?;
        file.write_all(&key).map_err(refused)?;
        file.persist(path).map_err(|e| refused(e.error))?;
        Ok((key, Some(Shown(path))))
    }

    /// The side of all others: the key, where it is there already.
    fn known(&self) -> Option<Key> {
        match self {
            Self::Told(text) => Some(Sha256::digest(text).into()),
            Self::Written(path) => std::fs::read(path).ok()?.try_into().ok(),
        }
    }
}

/// A secret, or a number used once.
type Key = [u8; 32];

/// A file with a secret, removed with this; so is its folder, if nothing else has come into it.
struct Shown<'a>(&'a Path);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
        let _ = self.0.parent().map(std::fs::remove_dir);
    }
}

/// 32 bytes that nobody can guess.
fn nonce() -> Result<Key> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| {
        failed(e, "random numbers of the system", "see that /dev/urandom can be read")
    })?;
    Ok(bytes)
}

/// What proves to the other side that one knows the key: HMAC-SHA-256 of all that both have said.
fn proof(key: &Key, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac
}

/// The first words of a process that arrives, by which a stranger at the port is told apart; then
/// size, rank and a number used once.
const GREETING: &[u8; 8] = b"tweedie2";

/// Pause between looks at the port.
const PAUSE: Duration = Duration::from_millis(20);

/// Agrees on one identity: rank 0 makes it and hands it to the others, who look for rank 0 until it
/// is there.
///
/// # Errors
/// Processes that do not come within `patience`; two of one rank, or of another number of
/// processes; no secret; what `make` says on rank 0.
pub fn meet(
    world: &World,
    secret: &Secret,
    patience: Duration,
    make: impl FnOnce() -> Result<Identity>,
) -> Result<Identity> {
    let Some((host, port)) = &world.meeting else { return make() };
    if world.rank > 0 {
        return ask(world, (host, *port), secret, patience);
    }
    let identity = make()?;
    let listener = listen(host, *port)?;
    let (key, _shown) = secret.made()?;
    tell(world, &listener, &key, patience, &identity)
}

/// The addresses at which rank 0 listens: those at which the others look for it.
fn listen(host: &str, port: u16) -> Result<TcpListener> {
    let found = (host, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    let bound = if itself(host, &found) {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
    } else {
        TcpListener::bind(&found[..])
    };
    bound.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => failed(
            e,
            format!("port {port} free"),
            "set MASTER_PORT to a port that is free on rank 0's machine",
        ),
        _ => failed(
            format!("{host}: {e}"),
            "an address of the machine of rank 0",
            "set MASTER_ADDR to one",
        ),
    })
}

/// Whether a name leads a machine to itself alone, as many machines have it for their own name,
/// while it leads all others to an address of it that it does not know by this name.
fn itself(host: &str, found: &[SocketAddr]) -> bool {
    let name = host.parse::<IpAddr>().is_err() && host != "localhost";
    name && !found.is_empty() && found.iter().all(|at| at.ip().is_loopback())
}

/// Rank 0's side.
fn tell(
    world: &World,
    listener: &TcpListener,
    key: &Key,
    patience: Duration,
    identity: &Identity,
) -> Result<Identity> {
    let broken = |e: std::io::Error| failed(e, "a network that holds", "start all processes again");
    listener.set_nonblocking(true).map_err(broken)?;
    let mut arrived: Vec<Option<Guest>> = (1..world.size).map(|_| None).collect();
    // Time is counted in pauses: nothing here reads the clock.
    let mut looks = patience.as_millis() / PAUSE.as_millis();
    while arrived.iter().any(Option::is_none) {
        match listener.accept() {
            Ok((stream, _)) => {
                let own = nonce()?;
                // One who does not greet, or does not know the secret, is no process of ours.
                let Ok(guest) = greeted(stream, key, &own) else { continue };
                let (rank, size) = (guest.rank, guest.size);
                if size != world.size {
                    let mend = "where two runs use one MASTER_PORT give each its own";
                    return Err(failed(
                        format!("rank {rank} of {size}"),
                        format!("ranks of {}", world.size),
                        mend,
                    ));
                }
                match arrived.get_mut(rank.wrapping_sub(1)) {
                    Some(place @ None) => *place = Some(guest),
                    _ => {
                        let allowed = format!("one of each from 1 to {}", world.size - 1);
                        return Err(failed(
                            format!("rank {rank} once more"),
                            allowed,
                            "start all processes by one launcher",
                        ));
                    }
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && looks > 0 => {
                looks -= 1;
                std::thread::sleep(PAUSE);
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                let missing: Vec<String> = (1..world.size)
                    .filter(|rank| arrived[rank - 1].is_none())
                    .map(|rank| rank.to_string())
                    .collect();
                let got = format!(
                    "no word of rank {} within {} s",
                    missing.join(", "),
                    patience.as_secs()
                );
                return Err(failed(
                    got,
                    "every process",
                    "see that each was started, reaches MASTER_ADDR and knows the secret",
                ));
            }
            Err(e) => return Err(broken(e)),
        }
    }
    let hand = |guest: &mut Guest| {
        let sign =
            proof(key, &[b"rank 0", &guest.said, &guest.told, identity]).finalize().into_bytes();
        guest.stream.write_all(&[&identity[..], &sign[..]].concat())
    };
    arrived.iter_mut().flatten().try_for_each(hand).map_err(broken)?;
    Ok(*identity)
}

/// A process that has come.
struct Guest {
    stream: TcpStream,
    size: usize,
    rank: usize,
    /// Its greeting.
    said: [u8; 56],
    /// The number that it was told.
    told: Key,
}

/// Reads who has come, and has it prove that it knows the key.
fn greeted(mut stream: TcpStream, key: &Key, told: &Key) -> std::io::Result<Guest> {
    // Some systems hand the listener's way of not waiting on to its streams.
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let (mut said, mut sign) = ([0; 56], [0; 32]);
    stream.read_exact(&mut said)?;
    let stranger = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    if said[..8] != *GREETING {
        return Err(stranger());
    }
    stream.write_all(told)?;
    stream.read_exact(&mut sign)?;
    proof(key, &[b"guest", &said, told]).verify_slice(&sign).map_err(|_| stranger())?;
    stream.write_all(&proof(key, &[b"welcome", &said, told]).finalize().into_bytes())?;
    let number =
        |at: usize| u64::from_le_bytes(said[at..at + 8].try_into().expect("8 bytes")) as usize;
    Ok(Guest { stream, size: number(8), rank: number(16), said, told: *told })
}

/// The side of all other ranks.
fn ask(
    world: &World,
    (host, port): (&str, u16),
    secret: &Secret,
    patience: Duration,
) -> Result<Identity> {
    let place = format!("{host}:{port}");
    let alone = |got: String| {
        failed(got, "rank 0's word", "see that rank 0 runs, without error, and is at MASTER_ADDR")
    };
    let (mut found, mut refused) = (false, false);
    for _ in 0..=patience.as_millis() / PAUSE.as_millis() {
        if let Some(key) = secret.known() {
            found = true;
            // Looked up anew each time: a machine of a job that is just starting may not have its
            // name yet.
            let addresses =
                (host, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
            let connect =
                |at: &SocketAddr| TcpStream::connect_timeout(at, Duration::from_secs(2)).ok();
            if let Some(mut stream) = addresses.iter().find_map(connect) {
                match exchange(world, &mut stream, &key, patience) {
                    Ok(identity) => return Ok(identity),
                    // Hung up on: the secret may be one that an earlier run has left, and is about
                    // to be replaced.
                    Err(None) => refused = true,
                    Err(Some(e)) => return Err(alone(format!("no word from {place} ({e})"))),
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
    let within = format!("for {} s", patience.as_secs());
    match (secret, found, refused) {
        (Secret::Written(path), false, _) => Err(failed(
            format!("no secret of rank 0 in {} {within}", path.display()),
            "the file that rank 0 writes there, or TWEEDIE_SECRET in all processes",
            "see that rank 0 runs; where --out is not on a file system of all machines set TWEEDIE_SECRET",
        )),
        (_, _, true) => Err(failed(
            format!("rank 0 at {place} that knows no such secret {within}"),
            "one secret",
            "set TWEEDIE_SECRET to one text in all processes, and give each run its own MASTER_PORT",
        )),
        _ => Err(alone(format!("nobody at {place} {within}"))),
    }
}

/// What is said between a process and rank 0. The error is none where the two do not know the same
/// secret.
fn exchange(
    world: &World,
    stream: &mut TcpStream,
    key: &Key,
    patience: Duration,
) -> std::result::Result<Identity, Option<Error>> {
    let gone =
        |e: std::io::Error| Some(failed(&e, "a network that holds", "start all processes again"));
    let mut said = [0; 56];
    said[..8].copy_from_slice(GREETING);
    said[8..16].copy_from_slice(&(world.size as u64).to_le_bytes());
    said[16..24].copy_from_slice(&(world.rank as u64).to_le_bytes());
    said[24..].copy_from_slice(&nonce().map_err(Some)?);
    let (mut told, mut identity, mut sign) = ([0; 32], [0; 128], [0; 32]);
    stream.set_read_timeout(Some(patience)).map_err(gone)?;
    // A stranger at the port says something else, or nothing; both are met by looking again.
    stream.write_all(&said).and_then(|()| stream.read_exact(&mut told)).map_err(|_| None)?;
    let own = proof(key, &[b"guest", &said, &told]).finalize().into_bytes();
    stream.write_all(&own).and_then(|()| stream.read_exact(&mut sign)).map_err(|_| None)?;
    proof(key, &[b"welcome", &said, &told]).verify_slice(&sign).map_err(|_| None)?;
    // From here on it is rank 0, and what goes wrong is its word on the matter.
    stream.read_exact(&mut identity).and_then(|()| stream.read_exact(&mut sign)).map_err(gone)?;
    proof(key, &[b"rank 0", &said, &told, &identity])
        .verify_slice(&sign)
        .map_err(|e| gone(std::io::Error::other(e)))?;
    Ok(identity)
}

fn failed(got: impl ToString, allowed: impl ToString, mend: &str) -> Error {
    Error::domain("meeting of the processes", got, allowed, mend)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Cpu;
    use crate::element::Element;
    use crate::train::loader::Draws;
    use crate::train::objective::Batch;
    use crate::train::{Data, Settings, Trainer};
    use ndarray::s;
    use std::sync::{Arc, Barrier, Mutex};
    use tweedie::math::noise::Noise;

    impl Draws {
        /// The draws of some rows of the batch.
        fn rows(&self, rows: Range<usize>) -> Self {
            let of = |x: &[f64]| x[rows.clone()].to_vec();
            Self {
                x0: self.x0.slice(s![rows.clone(), ..]).to_owned(),
                eps: self.eps.slice(s![rows.clone(), ..]).to_owned(),
                times: of(&self.times),
                uniforms: of(&self.uniforms),
                densities: of(&self.densities),
                labels: self.labels.get(rows.clone()).unwrap_or_default().to_vec(),
                images: self.images[rows.clone()].to_vec(),
                mirrored: self.mirrored[rows].to_vec(),
                eps_stream: self.eps_stream,
            }
        }
    }

    /// Sums over all processes, each of which calls with as many numbers and gets the same.
    trait AllReduce<T>: Send {
        /// Replaces `x` by its sum over the processes: equal to the bit for all of them.
        fn sum(&mut self, x: &mut [T]) -> Result<()>;
    }

    /// The mean of the gradients of equally large parts of a batch: the gradient of the whole,
    /// whose loss is a mean over images.
    fn mean_gradient<T: Element>(
        world: &World,
        all: &mut dyn AllReduce<T>,
        gradient: &mut [T],
    ) -> Result<()> {
        all.sum(gradient)?;
        let share = T::of(1.0 / world.size as f64);
        gradient.iter_mut().for_each(|g| *g *= share);
        Ok(())
    }

    /// Each image's number, told to all: every process knows its own rows, and a sum with zeros
    /// adds nothing, not even rounding.
    ///
    /// So loss and importance, which read all images' errors in their order, are the same
    /// everywhere and for any number of processes.
    fn of_all_rows(world: &World, all: &mut dyn AllReduce<f64>, own: &[f64]) -> Result<Vec<f64>> {
        let mut whole = vec![0.0; own.len() * world.size];
        whole[world.rank * own.len()..][..own.len()].copy_from_slice(own);
        all.sum(&mut whole)?;
        Ok(whole)
    }

    fn world(set: &[(&str, &str)]) -> Result<World> {
        World::read(|name| {
            set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn every_launcher_is_understood() {
        assert_eq!(world(&[]).unwrap(), World::alone());
        let at = |rank, size, local_rank, host: &str, port| World {
            rank,
            size,
            local_rank,
            meeting: Some((host.to_owned(), port)),
        };
        let torchrun = [
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "a"),
            ("MASTER_PORT", "1234"),
        ];
        assert_eq!(world(&torchrun).unwrap(), at(3, 4, 1, "a", 1234));
        // Below srun, which started one torchrun on each of two machines.
        let below = [
            &torchrun[..],
            &[("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2"), ("SLURM_LOCALID", "0")],
        ]
        .concat();
        assert_eq!(world(&below).unwrap(), at(3, 4, 1, "a", 1234));
        // All on this machine: nobody else has to reach them.
        let here = [&torchrun[..], &[("LOCAL_WORLD_SIZE", "4")]].concat();
        assert_eq!(world(&here).unwrap(), at(3, 4, 1, "127.0.0.1", 1234));
        assert_eq!(
            world(&[&torchrun[..], &[("LOCAL_WORLD_SIZE", "2")]].concat()).unwrap(),
            at(3, 4, 1, "a", 1234)
        );
        let mpirun = [
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ];
        assert!(world(&mpirun).unwrap_err().to_string().contains("MASTER_ADDR"));
        assert_eq!(
            world(&[&mpirun[..], &[("OMPI_COMM_WORLD_LOCAL_SIZE", "2")]].concat()).unwrap(),
            at(1, 2, 1, "127.0.0.1", PORT)
        );
        assert_eq!(
            world(&[&mpirun[..], &[("MASTER_ADDR", "b")]].concat()).unwrap(),
            at(1, 2, 1, "b", PORT)
        );
        let mpiexec =
            [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "0"), ("MASTER_ADDR", "c")];
        assert_eq!(world(&mpiexec).unwrap(), at(1, 2, 0, "c", PORT));
        let srun = [
            ("SLURM_PROCID", "7"),
            ("SLURM_NTASKS", "8"),
            ("SLURM_LOCALID", "3"),
            ("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.1"),
        ];
        assert_eq!(world(&srun).unwrap(), at(7, 8, 3, "10.0.0.1", PORT));
        assert_eq!(
            world(&[&srun[..], &[("SLURM_STEP_NUM_NODES", "2")]].concat()).unwrap(),
            at(7, 8, 3, "10.0.0.1", PORT)
        );
        assert_eq!(
            world(&[&srun[..], &[("SLURM_STEP_NUM_NODES", "1")]].concat()).unwrap(),
            at(7, 8, 3, "127.0.0.1", PORT)
        );
        // A step of fewer tasks than the job has.
        assert!(world(&[&srun[..], &[("SLURM_STEP_NUM_TASKS", "4")]].concat()).is_err());
        // The script of a job is none of its tasks; nor is a step of one task more than one
        // process.
        assert_eq!(world(&[("SLURM_NTASKS", "8")]).unwrap(), World::alone());
        assert_eq!(
            world(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8"), ("SLURM_STEP_NUM_TASKS", "1")])
                .unwrap(),
            World::alone()
        );
        assert_eq!(world(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), World::alone());
        assert_eq!(world(&[("RANK", ""), ("WORLD_SIZE", "")]).unwrap(), World::alone());
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |set: &[(&str, &str)], says: &str| {
            let error = world(set).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        refused(
            &[("RANK", "0")],
            "WORLD_SIZE: got nothing, allowed: a number, because RANK is set; start through torchrun, or unset RANK",
        );
        refused(&[("WORLD_SIZE", "2")], "RANK: got nothing");
        refused(
            &[("RANK", "2"), ("WORLD_SIZE", "2")],
            "RANK: got 2, allowed: 0 to 1, because WORLD_SIZE is 2",
        );
        refused(&[("RANK", "0"), ("WORLD_SIZE", "0")], "because WORLD_SIZE is 0");
        refused(&[("RANK", "-1"), ("WORLD_SIZE", "2")], "RANK: got '-1'");
        refused(&[("RANK", "1"), ("WORLD_SIZE", "two")], "WORLD_SIZE: got 'two'");
        refused(
            &[("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "2")],
            "LOCAL_RANK: got 2, allowed: 0 to 1",
        );
        refused(
            &[("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")],
            "MASTER_ADDR: got nothing",
        );
        for port in ["0", "65536", "x"] {
            refused(
                &[("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", port)],
                "MASTER_PORT",
            );
        }
    }

    /// A world of this size, met at a port of this machine.
    fn member(rank: usize, size: usize, port: u16) -> World {
        World { rank, size, local_rank: rank, meeting: Some(("127.0.0.1".to_owned(), port)) }
    }

    #[test]
    fn rows_part_a_batch() {
        for size in 1..=4 {
            let parts: Vec<usize> =
                (0..size).flat_map(|rank| member(rank, size, 1).rows(12).unwrap()).collect();
            assert_eq!(parts, (0..12).collect::<Vec<_>>());
        }
        let refused = member(0, 3, 1).rows(8).unwrap_err().to_string();
        assert_eq!(
            refused,
            "batch: got 8, allowed: a multiple of 3, the number of processes; choose 9, or another number of processes"
        );
        assert!(member(0, 3, 1).rows(0).is_err());
    }

    /// Threads in the place of processes: sums in the order of the ranks.
    struct Threads {
        rank: usize,
        barrier: Arc<Barrier>,
        parts: Arc<Mutex<Vec<Vec<f64>>>>,
    }

    impl Threads {
        fn all(size: usize) -> Vec<Self> {
            let (barrier, parts) =
                (Arc::new(Barrier::new(size)), Arc::new(Mutex::new(vec![vec![]; size])));
            (0..size)
                .map(|rank| Self { rank, barrier: barrier.clone(), parts: parts.clone() })
                .collect()
        }
    }

    impl AllReduce<f64> for Threads {
        fn sum(&mut self, x: &mut [f64]) -> Result<()> {
            self.parts.lock().unwrap()[self.rank] = x.to_vec();
            self.barrier.wait();
            let parts = self.parts.lock().unwrap().clone();
            self.barrier.wait();
            for (i, x) in x.iter_mut().enumerate() {
                *x = parts.iter().map(|part| part[i]).sum();
            }
            Ok(())
        }
    }

    const RECIPE: &str = "steps = 4\nbatch = 12\nseed = 5\n[data]\nset = \"digits\"\nheld_out_every = 3\nflips = true\n[network]\nin_channels = 1\n\
         out_channels = 1\nblock_out_channels = [8]\ndown_block_types = [\"AttnDownBlock2D\"]\nup_block_types = [\"AttnUpBlock2D\"]\nlayers_per_block = 1\n\
         norm_num_groups = 2\nadd_attention = false\nattention_head_dim = 4\nnum_class_embeds = 11\n[path]\nkind = \"cosine\"\n[objective]\nprediction = \"v\"\n\
         weighting = \"min-snr:5\"\n[labels]\ndrop = 0.5\n[times]\nstratified = true\n[optimiser]\nzero_output = false";

    /// One rank's step: its rows' gradient, averaged, and all images' errors.
    fn step(world: &World, all: &mut Threads) -> (Vec<f64>, Vec<f64>, f64) {
        let settings = Settings::parse(RECIPE).unwrap();
        let batch = settings.batch;
        let trainer =
            Trainer::<f64>::new(settings.clone(), Data::load(&settings).unwrap()).unwrap();
        let mut loader =
            super::super::loader::Loader::new(&settings, Data::load(&settings).unwrap(), Some(10))
                .unwrap();
        let mut draws = loader.draws();
        loader.draw(3, None, &mut draws).unwrap();
        let rows = world.rows(batch).unwrap();
        let draws = draws.rows(rows.clone());
        let mut part = Batch::<f64>::new(rows.len(), trainer.setup());
        trainer
            .objective()
            .prepare(draws.x0.view(), draws.eps.view(), &draws.times, &draws.densities, &mut part)
            .unwrap();
        let mut cpu = Cpu::<f64>::new(trainer.program().clone(), rows.len());
        // Its own start has zeros wherever nothing must flow at first.
        let mut params = trainer.params().to_vec();
        params
            .iter_mut()
            .enumerate()
            .for_each(|(i, p)| *p += 0.1 * Noise::new(8).normal(0, i as u64));
        cpu.load(&params);
        let y = cpu.forward(&part.x, &part.times, &draws.labels).unwrap().to_vec();
        let (mut dy, mut gradient) = (vec![0.0; y.len()], vec![0.0; params.len()]);
        part.loss(&y, &mut dy);
        cpu.backward(&dy, &mut gradient);
        mean_gradient(world, all, &mut gradient).unwrap();
        let errors = of_all_rows(world, all, &part.errors).unwrap();
        let weights = of_all_rows(world, all, &part.weights).unwrap();
        let loss = errors.iter().zip(&weights).map(|(e, w)| e * w).sum::<f64>() / batch as f64;
        (gradient, errors, loss)
    }

    fn steps(size: usize) -> Vec<(Vec<f64>, Vec<f64>, f64)> {
        let ranks = Threads::all(size).into_iter().enumerate();
        let run = |(rank, mut all): (usize, Threads)| {
            std::thread::spawn(move || step(&member(rank, size, 1), &mut all))
        };
        let running: Vec<_> = ranks.map(run).collect();
        running.into_iter().map(|rank| rank.join().unwrap()).collect()
    }

    #[test]
    fn the_mean_over_processes_is_the_whole_batch_s_gradient() {
        let (whole, errors, loss) = steps(1).swap_remove(0);
        let length = |g: &[f64]| g.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(length(&whole) > 0.1 && loss > 0.1);
        for size in [2, 3, 4] {
            let ranks = steps(size);
            for (gradient, there, total) in &ranks {
                // All ranks have the same to the bit; the errors of images do not depend on who
                // computed them.
                assert!(*gradient == ranks[0].0 && there == &errors && *total == loss, "{size}");
                let off: Vec<f64> = gradient.iter().zip(&whole).map(|(a, b)| a - b).collect();
                // Sums over 12 images of 64 pixels in another order.
                assert!(
                    length(&off) <= 64.0 * f64::EPSILON * length(&whole),
                    "{size}: {:e}",
                    length(&off) / length(&whole)
                );
            }
        }
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    fn told() -> Secret {
        Secret::Told("what only we know".into())
    }

    fn key() -> Key {
        told().known().unwrap()
    }

    #[test]
    fn a_secret_is_told_or_written_for_its_user_alone() {
        let out = tempfile::tempdir().unwrap();
        let of = |text: Option<&str>| {
            Secret::of_run(&out.path().join("run"), |name| {
                text.filter(|_| name == SECRET).map(str::to_owned)
            })
        };
        assert_eq!(of(Some("0123456789abcdef")).unwrap(), Secret::Told("0123456789abcdef".into()));
        for short in ["", "0123456789abcde"] {
            let error = of(Some(short)).unwrap_err().to_string();
            assert!(
                error.contains("TWEEDIE_SECRET")
                    && error.contains("16 or more")
                    && !error.contains("0123"),
                "{error}"
            );
        }
        let secret = of(None).unwrap();
        assert_eq!(secret.known(), None);
        let (key, shown) = secret.made().unwrap();
        assert_eq!(secret.known(), Some(key));
        assert_ne!(key, nonce().unwrap());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(out.path().join("run/.tweedie-secret"))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        drop(shown);
        assert!(secret.known().is_none() && !out.path().join("run").exists());
    }

    #[test]
    fn rank_0_listens_where_it_is_looked_for() {
        for host in ["127.0.0.1", "localhost"] {
            assert!(listen(host, 0).unwrap().local_addr().unwrap().ip().is_loopback(), "{host}");
        }
        // Of no machine: an address for documentation; and of no name.
        for host in ["192.0.2.1", "no-such-host.invalid"] {
            let error = listen(host, 0).unwrap_err().to_string();
            assert!(error.contains("MASTER_ADDR"), "{error}");
        }
        let at = |text: &str| vec![text.parse::<SocketAddr>().unwrap()];
        assert!(
            itself("node0", &at("127.0.1.1:1"))
                && !itself("node0", &at("10.0.0.1:1"))
                && !itself("node0", &[])
        );
        assert!(
            !itself("localhost", &at("127.0.0.1:1"))
                && !itself("127.0.0.1", &at("127.0.0.1:1"))
                && !itself("::1", &at("[::1]:1"))
        );
    }

    #[test]
    fn who_does_not_know_the_secret_is_told_nothing() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let short = Duration::from_millis(300);
        let rank_0 = std::thread::spawn(move || {
            tell(&member(0, 2, port), &listener, &key(), Duration::from_secs(1), &[7; 128])
        });
        let stranger = Secret::Told("what nobody else knows".into());
        let error =
            meet(&member(1, 2, port), &stranger, short, || unreachable!()).unwrap_err().to_string();
        assert!(error.contains("knows no such secret"), "{error}");
        // What one guest has said proves nothing a second time.
        let mut first = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let said = [&GREETING[..], &2u64.to_le_bytes(), &1u64.to_le_bytes(), &[5; 32]].concat();
        first.write_all(&said).unwrap();
        let mut told = [0; 32];
        first.read_exact(&mut told).unwrap();
        let mut second = TcpStream::connect(("127.0.0.1", port)).unwrap();
        drop(first);
        second.write_all(&said).unwrap();
        second
            .write_all(&proof(&key(), &[b"guest", &said, &told]).finalize().into_bytes())
            .unwrap();
        let mut rest = vec![];
        let _ = second.read_to_end(&mut rest);
        assert!(rest.len() <= 32 && rest != told, "{rest:?}");
        assert!(rank_0.join().unwrap().unwrap_err().to_string().contains("no word of rank 1"));
        // Nor is a rank 0 believed that does not know it.
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let false_0 = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 56]).unwrap();
            stream.write_all(&[0; 32 + 32 + 128 + 32]).unwrap();
        });
        assert!(
            meet(&member(1, 2, port), &super::tests::told(), short, || unreachable!()).is_err()
        );
        false_0.join().unwrap();
        // One that was not written where it is looked for.
        let nowhere = Secret::Written("/nowhere/.tweedie-secret".into());
        let error =
            meet(&member(1, 2, port), &nowhere, short, || unreachable!()).unwrap_err().to_string();
        assert!(error.contains("no secret of rank 0 in /nowhere/.tweedie-secret"), "{error}");
    }

    #[test]
    fn all_ranks_learn_one_identity() {
        for size in [1, 2, 5] {
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let identity: Identity = std::array::from_fn(|i| (i * i + size) as u8);
            let others: Vec<_> = (1..size)
                .map(|rank| {
                    std::thread::spawn(move || {
                        meet(&member(rank, size, port), &told(), PATIENCE, || {
                            panic!("rank 0's to make")
                        })
                    })
                })
                .collect();
            // A stranger who says nothing of use, and leaves.
            TcpStream::connect(("127.0.0.1", port))
                .unwrap()
                .write_all(b"GET / HTTP/1.1\r\n\r\n hello")
                .unwrap();
            assert_eq!(
                tell(&member(0, size, port), &listener, &key(), PATIENCE, &identity).unwrap(),
                identity
            );
            others
                .into_iter()
                .for_each(|other| assert_eq!(other.join().unwrap().unwrap(), identity));
        }
        assert_eq!(meet(&World::alone(), &told(), PATIENCE, || Ok([7; 128])).unwrap(), [7; 128]);
    }

    #[test]
    fn a_meeting_that_fails_says_why() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let short = Duration::from_millis(200);
        let rank_0 = |size| {
            tell(&member(0, size, port), &listener, &key(), short, &[0; 128])
                .unwrap_err()
                .to_string()
        };
        assert!(rank_0(3).contains("no word of rank 1, 2 within 0 s"), "{}", rank_0(3));
        for (who, says) in [
            (member(1, 4, port), "got rank 1 of 4, allowed: ranks of 3"),
            (member(3, 3, port), "rank 3 once more"),
        ] {
            let other =
                std::thread::spawn(move || meet(&who, &told(), PATIENCE, || unreachable!()));
            let error = tell(&member(0, 3, port), &listener, &key(), PATIENCE, &[0; 128])
                .unwrap_err()
                .to_string();
            assert!(error.contains(says), "{error}");
            assert!(other.join().unwrap().unwrap_err().to_string().contains("no word from"));
        }
        drop(listener);
        assert!(
            meet(&member(1, 2, port), &told(), short, || unreachable!())
                .unwrap_err()
                .to_string()
                .contains("nobody at 127.0.0.1")
        );
    }
}
