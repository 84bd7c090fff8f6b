//! Training on several devices at once: every process takes its rows of each batch, and the gradients are averaged.
//!
//! What a step draws is a function of the seed, the step and the place in the batch. So each of the processes plans the *whole* batch, which is a
//! few numbers an image, and makes, noises and runs its own rows alone: the number of processes changes nothing but the order in which
//! a gradient is summed. All of them end a step with the same weights, to the bit, because all of them see the same sums.
//!
//! How many there are and which one this is, is read from what `torchrun`, `mpirun` and `srun` set. Sums are the device's business:
//! on GPUs NCCL's, whose 128-byte identity the processes agree on by [`meet`].

use crate::error::{Error, Result};
use core::time::Duration;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::ops::Range;

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
}

/// In the order in which they count: torchrun may run below srun, and mpirun inside a Slurm job.
const LAUNCHERS: [Launcher; 4] = [
    Launcher { name: "torchrun", rank: "RANK", size: &["WORLD_SIZE"], local_rank: &["LOCAL_RANK"], host: None },
    Launcher {
        name: "mpirun",
        rank: "OMPI_COMM_WORLD_RANK",
        size: &["OMPI_COMM_WORLD_SIZE"],
        local_rank: &["OMPI_COMM_WORLD_LOCAL_RANK"],
        host: None,
    },
    Launcher {
        name: "mpiexec",
        rank: "PMI_RANK",
        size: &["PMI_SIZE"],
        local_rank: &["MPI_LOCALRANKID", "PMI_LOCAL_RANK"],
        host: None,
    },
    Launcher {
        name: "srun",
        rank: "SLURM_PROCID",
        size: &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"],
        local_rank: &["SLURM_LOCALID"],
        host: Some("SLURM_LAUNCH_NODE_IPADDR"),
    },
];

impl World {
    /// One process alone.
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, local_rank: 0, meeting: None }
    }

    /// What the launcher says, through `variable`, which looks up the environment; alone where no launcher speaks.
    ///
    /// # Errors
    /// A rank without a size, or a size without a rank; what is no number; a rank beyond the size; several processes, and no word of where
    /// rank 0 is.
    ///
    /// # Example
    /// ```
    /// use tweedie::train::parallel::World;
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
            let refuse =
                |_| Error::domain(name, format!("'{value}'"), "a whole number from 0", "correct the launcher's environment");
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
                Err(Error::domain(missing, "nothing", format!("a number, because {there} is set"), mend))
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
                return Err(Error::domain(launcher.rank, rank, allowed, "correct the launcher's environment"));
            }
            if size == 1 {
                return Ok(Self::alone());
            }
            let (local_name, local_rank) = first(launcher.local_rank)?.unwrap_or((launcher.local_rank[0], rank));
            if local_rank > rank {
                let allowed = format!("0 to {rank}, because {} is {rank}", launcher.rank);
                return Err(Error::domain(local_name, local_rank, allowed, "correct the launcher's environment"));
            }
            // All on one machine, if the last of them is.
            let one_machine = variable("OMPI_COMM_WORLD_LOCAL_SIZE").is_some_and(|n| n == size.to_string());
            let here = (launcher.name == "mpirun" && one_machine).then(|| "127.0.0.1".to_owned());
            let Some(host) = variable("MASTER_ADDR").or_else(|| variable(launcher.host?)).or(here) else {
                let mend = "set it to the name of the machine of rank 0, for example mpirun -x MASTER_ADDR=node0";
                return Err(Error::domain("MASTER_ADDR", "nothing", format!("a host, for {size} processes"), mend));
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
            let mend = format!("choose {}, or another number of processes", batch.next_multiple_of(self.size).max(self.size));
            return Err(Error::domain("batch", batch, allowed, mend));
        }
        let share = batch / self.size;
        Ok(self.rank * share..(self.rank + 1) * share)
    }
}

/// What rank 0 tells all others: NCCL's identity of their communicator.
pub type Identity = [u8; 128];

/// What a process says when it arrives: a word by which a stranger at the port is told apart, then size and rank.
const GREETING: &[u8; 8] = b"tweedie1";

/// Pause between looks at the port.
const PAUSE: Duration = Duration::from_millis(20);

/// Agrees on one identity: rank 0 makes it and hands it to the others, who look for rank 0 until it is there.
///
/// # Errors
/// Processes that do not come within `patience`; two of one rank, or of another number of processes; what `make` says on rank 0.
pub fn meet(world: &World, patience: Duration, make: impl FnOnce() -> Result<Identity>) -> Result<Identity> {
    let Some((host, port)) = &world.meeting else { return make() };
    if world.rank > 0 {
        return ask(world, (host, *port), patience);
    }
    let listener = TcpListener::bind(("0.0.0.0", *port))
        .map_err(|e| failed(e, format!("port {port} free"), "set MASTER_PORT to a port that is free on rank 0's machine"))?;
    tell(world, &listener, patience, &make()?)
}

/// Rank 0's side.
fn tell(world: &World, listener: &TcpListener, patience: Duration, identity: &Identity) -> Result<Identity> {
    let broken = |e: std::io::Error| failed(e, "a network that holds", "start all processes again");
    listener.set_nonblocking(true).map_err(broken)?;
    let mut arrived: Vec<Option<TcpStream>> = (1..world.size).map(|_| None).collect();
    // Time is counted in pauses: nothing here reads the clock.
    let mut looks = patience.as_millis() / PAUSE.as_millis();
    while arrived.iter().any(Option::is_none) {
        match listener.accept() {
            Ok((stream, _)) => {
                // One who does not greet is no process of ours.
                let Ok((stream, size, rank)) = greeted(stream) else { continue };
                if size != world.size {
                    let mend = "where two runs use one MASTER_PORT give each its own";
                    return Err(failed(format!("rank {rank} of {size}"), format!("ranks of {}", world.size), mend));
                }
                match arrived.get_mut(rank.wrapping_sub(1)) {
                    Some(place @ None) => *place = Some(stream),
                    _ => {
                        let allowed = format!("one of each from 1 to {}", world.size - 1);
                        return Err(failed(format!("rank {rank} once more"), allowed, "start all processes by one launcher"));
                    }
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && looks > 0 => {
                looks -= 1;
                std::thread::sleep(PAUSE);
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                let missing: Vec<String> =
                    (1..world.size).filter(|rank| arrived[rank - 1].is_none()).map(|rank| rank.to_string()).collect();
                let got = format!("no word of rank {} within {} s", missing.join(", "), patience.as_secs());
                return Err(failed(got, "every process", "see that each was started and reaches MASTER_ADDR"));
            }
            Err(e) => return Err(broken(e)),
        }
    }
    arrived.iter_mut().flatten().try_for_each(|stream| stream.write_all(identity)).map_err(broken)?;
    Ok(*identity)
}

/// Reads who has come.
fn greeted(mut stream: TcpStream) -> std::io::Result<(TcpStream, usize, usize)> {
    // Some systems hand the listener's way of not waiting on to its streams.
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut words = [0; 24];
    stream.read_exact(&mut words)?;
    if words[..8] != *GREETING {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let number = |at: usize| u64::from_le_bytes(words[at..at + 8].try_into().expect("8 bytes")) as usize;
    Ok((stream, number(8), number(16)))
}

/// The side of all other ranks.
fn ask(world: &World, (host, port): (&str, u16), patience: Duration) -> Result<Identity> {
    let place = format!("{host}:{port}");
    let alone = |got: String| failed(got, "rank 0's word", "see that rank 0 runs, without error, and is at MASTER_ADDR");
    for _ in 0..=patience.as_millis() / PAUSE.as_millis() {
        // Looked up anew each time: a machine of a job that is just starting may not have its name yet.
        let addresses = (host, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
        if let Some(mut stream) = addresses.iter().find_map(|at| TcpStream::connect_timeout(at, Duration::from_secs(2)).ok()) {
            let mut identity = [0; 128];
            let mut exchange = || {
                stream.set_read_timeout(Some(patience))?;
                stream
                    .write_all(&[&GREETING[..], &(world.size as u64).to_le_bytes(), &(world.rank as u64).to_le_bytes()].concat())?;
                stream.read_exact(&mut identity)
            };
            return match exchange() {
                Ok(()) => Ok(identity),
                Err(e) => Err(alone(format!("no word from {place} ({e})"))),
            };
        }
        std::thread::sleep(PAUSE);
    }
    Err(alone(format!("nobody at {place} for {} s", patience.as_secs())))
}

fn failed(got: impl ToString, allowed: impl ToString, mend: &str) -> Error {
    Error::domain("meeting of the processes", got, allowed, mend)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::noise::Noise;
    use crate::nn::cpu::Cpu;
    use crate::nn::element::Element;
    use crate::train::loader::Draws;
    use crate::train::objective::Batch;
    use crate::train::{Data, Settings, Trainer};
    use ndarray::s;
    use std::sync::{Arc, Barrier, Mutex};

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

    /// The mean of the gradients of equally large parts of a batch: the gradient of the whole, whose loss is a mean over images.
    fn mean_gradient<T: Element>(world: &World, all: &mut dyn AllReduce<T>, gradient: &mut [T]) -> Result<()> {
        all.sum(gradient)?;
        let share = T::of(1.0 / world.size as f64);
        gradient.iter_mut().for_each(|g| *g *= share);
        Ok(())
    }

    /// Each image's number, told to all: every process knows its own rows, and a sum with zeros adds nothing, not even rounding.
    ///
    /// So loss and importance, which read all images' errors in their order, are the same everywhere and for any number of processes.
    fn of_all_rows(world: &World, all: &mut dyn AllReduce<f64>, own: &[f64]) -> Result<Vec<f64>> {
        let mut whole = vec![0.0; own.len() * world.size];
        whole[world.rank * own.len()..][..own.len()].copy_from_slice(own);
        all.sum(&mut whole)?;
        Ok(whole)
    }

    fn world(set: &[(&str, &str)]) -> Result<World> {
        World::read(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn every_launcher_is_understood() {
        assert_eq!(world(&[]).unwrap(), World::alone());
        let at =
            |rank, size, local_rank, host: &str, port| World { rank, size, local_rank, meeting: Some((host.to_owned(), port)) };
        let torchrun = [("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "1234")];
        assert_eq!(world(&torchrun).unwrap(), at(3, 4, 1, "a", 1234));
        // Below srun, which started one torchrun on each of two machines.
        let below = [&torchrun[..], &[("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2"), ("SLURM_LOCALID", "0")]].concat();
        assert_eq!(world(&below).unwrap(), at(3, 4, 1, "a", 1234));
        let mpirun = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1")];
        assert!(world(&mpirun).unwrap_err().to_string().contains("MASTER_ADDR"));
        assert_eq!(world(&[&mpirun[..], &[("OMPI_COMM_WORLD_LOCAL_SIZE", "2")]].concat()).unwrap(), at(1, 2, 1, "127.0.0.1", PORT));
        assert_eq!(world(&[&mpirun[..], &[("MASTER_ADDR", "b")]].concat()).unwrap(), at(1, 2, 1, "b", PORT));
        let mpiexec = [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "0"), ("MASTER_ADDR", "c")];
        assert_eq!(world(&mpiexec).unwrap(), at(1, 2, 0, "c", PORT));
        let srun = [("SLURM_PROCID", "7"), ("SLURM_NTASKS", "8"), ("SLURM_LOCALID", "3"), ("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.1")];
        assert_eq!(world(&srun).unwrap(), at(7, 8, 3, "10.0.0.1", PORT));
        // A step of fewer tasks than the job has.
        assert!(world(&[&srun[..], &[("SLURM_STEP_NUM_TASKS", "4")]].concat()).is_err());
        // The script of a job is none of its tasks; nor is a step of one task more than one process.
        assert_eq!(world(&[("SLURM_NTASKS", "8")]).unwrap(), World::alone());
        assert_eq!(world(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8"), ("SLURM_STEP_NUM_TASKS", "1")]).unwrap(), World::alone());
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
        refused(&[("RANK", "2"), ("WORLD_SIZE", "2")], "RANK: got 2, allowed: 0 to 1, because WORLD_SIZE is 2");
        refused(&[("RANK", "0"), ("WORLD_SIZE", "0")], "because WORLD_SIZE is 0");
        refused(&[("RANK", "-1"), ("WORLD_SIZE", "2")], "RANK: got '-1'");
        refused(&[("RANK", "1"), ("WORLD_SIZE", "two")], "WORLD_SIZE: got 'two'");
        refused(&[("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "2")], "LOCAL_RANK: got 2, allowed: 0 to 1");
        refused(&[("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")], "MASTER_ADDR: got nothing");
        for port in ["0", "65536", "x"] {
            refused(&[("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", port)], "MASTER_PORT");
        }
    }

    /// A world of this size, met at a port of this machine.
    fn member(rank: usize, size: usize, port: u16) -> World {
        World { rank, size, local_rank: rank, meeting: Some(("127.0.0.1".to_owned(), port)) }
    }

    #[test]
    fn rows_part_a_batch() {
        for size in 1..=4 {
            let parts: Vec<usize> = (0..size).flat_map(|rank| member(rank, size, 1).rows(12).unwrap()).collect();
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
            let (barrier, parts) = (Arc::new(Barrier::new(size)), Arc::new(Mutex::new(vec![vec![]; size])));
            (0..size).map(|rank| Self { rank, barrier: barrier.clone(), parts: parts.clone() }).collect()
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
        let trainer = Trainer::<f64>::new(settings.clone(), Data::load(&settings).unwrap()).unwrap();
        let mut loader = super::super::loader::Loader::new(&settings, Data::load(&settings).unwrap(), Some(10)).unwrap();
        let mut draws = loader.draws();
        loader.draw(3, None, &mut draws).unwrap();
        let rows = world.rows(batch).unwrap();
        let draws = draws.rows(rows.clone());
        let mut part = Batch::<f64>::new(rows.len(), trainer.setup());
        trainer.objective().prepare(draws.x0.view(), draws.eps.view(), &draws.times, &draws.densities, &mut part).unwrap();
        let mut cpu = Cpu::<f64>::new(trainer.program().clone(), rows.len());
        // Its own start has zeros wherever nothing must flow at first.
        let mut params = trainer.params().to_vec();
        params.iter_mut().enumerate().for_each(|(i, p)| *p += 0.1 * Noise::new(8).normal(0, i as u64));
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
        let run = |(rank, mut all): (usize, Threads)| std::thread::spawn(move || step(&member(rank, size, 1), &mut all));
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
                // All ranks have the same to the bit; the errors of images do not depend on who computed them.
                assert!(*gradient == ranks[0].0 && there == &errors && *total == loss, "{size}");
                let off: Vec<f64> = gradient.iter().zip(&whole).map(|(a, b)| a - b).collect();
                // Sums over 12 images of 64 pixels in another order.
                assert!(length(&off) <= 64.0 * f64::EPSILON * length(&whole), "{size}: {:e}", length(&off) / length(&whole));
            }
        }
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn all_ranks_learn_one_identity() {
        for size in [1, 2, 5] {
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let identity: Identity = std::array::from_fn(|i| (i * i + size) as u8);
            let others: Vec<_> = (1..size)
                .map(|rank| std::thread::spawn(move || meet(&member(rank, size, port), PATIENCE, || panic!("rank 0's to make"))))
                .collect();
            // A stranger who says nothing of use, and leaves.
            TcpStream::connect(("127.0.0.1", port)).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n hello").unwrap();
            assert_eq!(tell(&member(0, size, port), &listener, PATIENCE, &identity).unwrap(), identity);
            others.into_iter().for_each(|other| assert_eq!(other.join().unwrap().unwrap(), identity));
        }
        assert_eq!(meet(&World::alone(), PATIENCE, || Ok([7; 128])).unwrap(), [7; 128]);
    }

    #[test]
    fn a_meeting_that_fails_says_why() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let short = Duration::from_millis(200);
        let rank_0 = |size| tell(&member(0, size, port), &listener, short, &[0; 128]).unwrap_err().to_string();
        assert!(rank_0(3).contains("no word of rank 1, 2 within 0 s"), "{}", rank_0(3));
        for (who, says) in [(member(1, 4, port), "got rank 1 of 4, allowed: ranks of 3"), (member(3, 3, port), "rank 3 once more")]
        {
            let other = std::thread::spawn(move || meet(&who, PATIENCE, || unreachable!()));
            let error = tell(&member(0, 3, port), &listener, PATIENCE, &[0; 128]).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(other.join().unwrap().unwrap_err().to_string().contains("no word from"));
        }
        drop(listener);
        assert!(meet(&member(1, 2, port), short, || unreachable!()).unwrap_err().to_string().contains("nobody at 127.0.0.1"));
    }
}
