//! Attention of the CPU back end, over keys and values in a pool of blocks.

use kolosal_kernels::attention::{
    self, AttnInput, AttnParams, Kv, KvLayout, KvMut, KvPool, KvShape, SpanRef,
};
use kolosal_kernels::rope::{self, RopeHeads};

use super::backend::{CpuOps, KvCache};
use super::tensor::CpuTensor;
use crate::model::batch::Batch;
use crate::model::error::ModelError;
use crate::model::ops::{Attend, KvBlocks};
use crate::model::runner::KvGrowth;
use crate::model::spec::AttnSpec;

impl Attend for CpuOps {
    fn reserve_kv(
        &mut self,
        layers: &[Option<&AttnSpec>],
        blocks: KvBlocks,
    ) -> Result<KvGrowth, ModelError> {
        let slopes = layers.iter().map(|attn| attn.and_then(AttnSpec::slopes)).collect();
        let shapes = layers.iter().map(|attn| match attn {
            // What is another layer's takes no room.
            Some(attn) => KvShape {
                kv_heads: if attn.shares_kv.is_some() { 0 } else { attn.kv_heads },
                head_dim_k: attn.head_dim,
                head_dim_v: attn.value_dim,
            },
            None => KvShape { kv_heads: 0, head_dim_k: 0, head_dim_v: 0 },
        });
        let layers = KvLayout::of_layers(shapes);
        let block_len = layers.first().map_or(0, |layout| layout.block_len);
        let mut pool = KvPool::new(block_len, blocks.most);
        pool.grow_to(blocks.first)?;
        let growth = KvGrowth {
            later_blocks: blocks.most - pool.num_blocks(),
            step_blocks: KvPool::piece_blocks(block_len * 2, blocks.most),
        };
        self.kv = KvCache { layers, slopes, blocks: pool };
        Ok(growth)
    }

    fn grow_kv(&mut self, num_blocks: usize) -> usize {
        // What is refused is no failure: there are as many blocks as there are.
        let _refused = self.kv.blocks.grow_to(num_blocks);
        self.kv.blocks.num_blocks()
    }

    fn begin(&mut self, batch: &Batch) -> Result<(), ModelError> {
        // The caller computes as the pool's first thread.
        self.pool.bind_caller();
        self.positions.clone_from(&batch.positions);
        self.slots.clone_from(&batch.slots);
        self.spans.clone_from(&batch.spans);
        Ok(())
    }

    fn rope(
        &mut self,
        mut x: CpuTensor,
        heads: usize,
        (table, style): &Self::Rope,
    ) -> Result<CpuTensor, ModelError> {
        let heads = RopeHeads { heads, head_dim: x.cols / heads, offset: 0, style: *style };
        rope::rope(x.view_mut(), &heads, table, &self.positions, &self.pool);
        Ok(x)
    }

    fn attention(
        &mut self,
        layer: usize,
        (q, kv): (&CpuTensor, Option<[&CpuTensor; 2]>),
        spec: &AttnSpec,
        sinks: Option<&Vec<f32>>,
    ) -> Result<CpuTensor, ModelError> {
        let mut out = self.buffers.tensor(q.rows, spec.heads * spec.value_dim)?;
        let layout = self.kv.layers[layer];
        if let Some([k, v]) = kv {
            let kv = KvMut { layout, cache: &mut self.kv.blocks };
            attention::kv_write(kv, k.view(), v.view(), &self.slots, &self.pool);
        }
        let spans: Vec<SpanRef<'_>> = self
            .spans
            .iter()
            .map(|span| SpanRef {
                rows: span.rows.start as usize..span.rows.end as usize,
                kv_len: span.kv_len as usize,
                blocks: &span.blocks,
            })
            .collect();
        let params = AttnParams {
            heads: spec.heads,
            scale: spec.scale,
            window: spec.window,
            chunk: spec.chunk,
            slopes: self.kv.slopes[layer].as_deref(),
            softcap: spec.softcap,
            sinks: sinks.map(Vec::as_slice),
            causal: spec.causal,
        };
        let kv = Kv { layout, cache: &self.kv.blocks };
        let input = AttnInput { q: q.view(), kv, spans: &spans, params };
        attention::attention(&input, out.view_mut(), &mut self.scratch, &self.pool)?;
        Ok(out)
    }
}
