//! What holds for every sampler: order, evaluations, point masses, predictions; and which wrong variants that notices.

use ndarray::array;
use tweedie::law::Gaussian;
use tweedie::law::mixture::Mixture;
use tweedie::sample::certify::{study, study_grid};
use tweedie::sample::registry::{Options, SAMPLERS, sampler};
use tweedie::sample::shortcut::Known;

fn gaussian() -> Gaussian {
    Gaussian::diagonal(array![0.5, -1.0, 0.3], array![4.0, 1.0, 0.04]).unwrap()
}

fn mixture() -> Mixture {
    let part = |m: f64, v: f64| Gaussian::diagonal(array![m, -0.5 * m], array![v, 0.5 * v]).unwrap();
    Mixture::new(array![0.3, 0.5, 0.2], vec![part(-1.5, 0.2), part(0.3, 0.4), part(2.0, 0.1)]).unwrap()
}

const STEPS: [usize; 6] = [16, 32, 64, 128, 256, 512];

#[test]
fn orders() {
    let (g, m) = (gaussian(), mixture());
    for e in SAMPLERS {
        for law in [Known::Gaussian(&g), Known::Any(&m)] {
            let options = Options { law: Some(law), churn: 5.0, ..Options::default() };
            let s = sampler(e.name, &options).unwrap();
            let start = std::time::Instant::now();
            if let Ok(f) = study(&s, law, &STEPS, study_grid) {
                let errors: Vec<_> = f.runs.iter().map(|e| format!("{:.2e}", e.error)).collect();
                println!(
                    "{:20} {:?} {:?}  {} in {:?}",
                    e.name,
                    s.order(),
                    f.order.map(|o| (o.slope, o.stderr)),
                    errors.join(" "),
                    start.elapsed()
                );
            }
        }
    }
}
