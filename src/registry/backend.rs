//! The loader's way to real runners.

use crate::error::Result;
use crate::model::gguf::Gguf;
use crate::model::{DeviceChoice, Runner, RunnerOptions, estimate_bytes, load_runner};

use super::load::Backend;
use super::spec::LoadParams;

/// Runs models by our own decoder.
#[derive(Clone, Debug)]
pub struct NativeBackend {
    /// Compute threads on the CPU, and the processors they are bound to: as in [`RunnerOptions`].
    pub threads: usize,
    pub cpus: Vec<usize>,
    /// Where engines run; [`DeviceChoice::Auto`] leaves it to their parameters `n_gpu_layers` and
    /// `main_gpu_id`.
    pub device: DeviceChoice,
    /// Upper bound of one engine's KV pool in bytes.
    pub max_kv_bytes: usize,
}

impl Default for NativeBackend {
    fn default() -> Self {
        let RunnerOptions { threads, cpus, device, max_kv_bytes, .. } = RunnerOptions::default();
        Self { threads, cpus, device, max_kv_bytes }
    }
}

impl NativeBackend {
    fn options(&self, params: &LoadParams) -> RunnerOptions {
        RunnerOptions {
            threads: self.threads,
            cpus: self.cpus.clone(),
            n_ctx: params.n_ctx as usize,
            n_parallel: params.max_running(),
            max_rows: params.max_rows(),
            max_kv_bytes: self.max_kv_bytes,
            device: self.device(params),
            quantize: params.quantize,
            lock_weights: params.use_mlock,
        }
    }

    /// No layer on the GPU means the CPU; a model is never split between the two.
    fn device(&self, params: &LoadParams) -> DeviceChoice {
        match (&self.device, params.main_gpu_id) {
            (DeviceChoice::Auto, _) if params.n_gpu_layers == 0 => DeviceChoice::Cpu,
            (DeviceChoice::Auto, id) if id > 0 => DeviceChoice::Gpu(id as usize),
            (device, _) => device.clone(),
        }
    }
}

impl Backend for NativeBackend {
    fn estimate(&self, gguf: &Gguf, params: &LoadParams) -> Result<u64> {
        Ok(estimate_bytes(gguf, &self.options(params))?)
    }

    fn runner(&self, gguf: &Gguf, params: &LoadParams) -> Result<Box<dyn Runner>> {
        Ok(load_runner(gguf, &self.options(params))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_choose_the_device() {
        let cases = [
            (DeviceChoice::Auto, 100, 0, DeviceChoice::Auto),
            (DeviceChoice::Auto, 100, -1, DeviceChoice::Auto),
            (DeviceChoice::Auto, 100, 3, DeviceChoice::Gpu(3)),
            (DeviceChoice::Auto, 0, 3, DeviceChoice::Cpu),
            (DeviceChoice::Cpu, 100, 3, DeviceChoice::Cpu),
            (DeviceChoice::Gpu(1), 0, 0, DeviceChoice::Gpu(1)),
        ];
        for (device, n_gpu_layers, main_gpu_id, want) in cases {
            let backend = NativeBackend { device: device.clone(), ..NativeBackend::default() };
            let params = LoadParams { n_gpu_layers, main_gpu_id, ..LoadParams::default() };
            let got = backend.options(&params).device;
            assert_eq!(got, want, "{device:?} {n_gpu_layers} {main_gpu_id}");
        }
        let alone = LoadParams { cont_batching: false, ..LoadParams::default() };
        assert_eq!(NativeBackend::default().options(&alone).n_parallel, 1);
    }
}
