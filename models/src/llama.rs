//! The Llama family: Llama 2 and 3, SmolLM2, TinyLlama, Mistral.
//!
//! Module fields carry the names of the checkpoint's keys. Source: `modeling_llama.py` and `modeling_mistral.py` of
//! transformers 5; Touvron et al. 2023.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use burnish_kernels::{AttentionOptions, FusedBackend, RotaryTable, add_rms_norm, attention, rms_norm, rotary, swiglu};

use crate::cache::{Cache, LayerCache};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::input::ModelInput;
use crate::linear::{DropoutSeed, Linear};
use crate::loader::Loader;
use crate::rope::Rope;
use crate::weight::Weight;

/// Weights with the names that checkpoints give them.
type NamedWeights<'a, B, const D: usize> = Vec<(String, &'a Weight<B, D>)>;

/// A decoder of the Llama family.
#[derive(Module, Debug)]
pub struct Llama<B: Backend> {
    /// `[vocab_size, hidden_size]`.
    pub embed_tokens: Weight<B, 2>,
    /// The blocks.
    pub layers: Vec<Block<B>>,
    /// `[hidden_size]`.
    pub norm: Weight<B, 1>,
    /// `[vocab_size, hidden_size]`; absent when the head is the embedding.
    pub lm_head: Option<Linear<B>>,
    epsilon: f64,
    #[module(skip)]
    rope: Rope,
}

/// One transformer block.
#[derive(Module, Debug)]
pub struct Block<B: Backend> {
    /// `[hidden_size]`.
    pub input_layernorm: Weight<B, 1>,
    /// Attention.
    pub self_attn: SelfAttention<B>,
    /// `[hidden_size]`.
    pub post_attention_layernorm: Weight<B, 1>,
    /// Feed-forward.
    pub mlp: Mlp<B>,
    epsilon: f64,
}

/// Attention with grouped key-value heads.
#[derive(Module, Debug)]
pub struct SelfAttention<B: Backend> {
    /// To queries.
    pub q_proj: Linear<B>,
    /// To keys.
    pub k_proj: Linear<B>,
    /// To values.
    pub v_proj: Linear<B>,
    /// Back to the residual stream.
    pub o_proj: Linear<B>,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    sliding_window: Option<usize>,
}

/// The gated feed-forward.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    /// Through the activation.
    pub gate_proj: Linear<B>,
    /// Times the activation.
    pub up_proj: Linear<B>,
    /// Back to the residual stream.
    pub down_proj: Linear<B>,
}

impl<B: FusedBackend> SelfAttention<B> {
    fn load(loader: &mut Loader<B>, config: &ModelConfig, prefix: &str) -> Result<Self> {
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let (query, key_value) = (heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        let bias = config.attention_bias;
        Ok(Self {
            q_proj: loader.linear(&format!("{prefix}.q_proj"), query, hidden, bias)?,
            k_proj: loader.linear(&format!("{prefix}.k_proj"), key_value, hidden, bias)?,
            v_proj: loader.linear(&format!("{prefix}.v_proj"), key_value, hidden, bias)?,
            o_proj: loader.linear(&format!("{prefix}.o_proj"), hidden, query, bias)?,
            heads,
            key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            sliding_window: config.sliding_window,
        })
    }

    fn forward(&self, x: Tensor<B, 2>, state: &BlockState<B>, cache: Option<&mut LayerCache<B>>) -> Tensor<B, 2> {
        let [batch, length] = state.dims;
        let dropout = state.dropout;
        let query = self.q_proj.forward(x.clone(), dropout).reshape([batch * length, self.heads, self.head_dim]);
        let key = self.k_proj.forward(x.clone(), dropout).reshape([batch * length, self.key_value_heads, self.head_dim]);
        let value = self.v_proj.forward(x, dropout).reshape([batch, length, self.key_value_heads, self.head_dim]);
        let (query, key) = rotary(query, key, &state.rotary);
        let query = query.reshape([batch, length, self.heads, self.head_dim]);
        let key = key.reshape([batch, length, self.key_value_heads, self.head_dim]);
        let (key, value) = match cache {
            Some(cache) => cache.append(key, value),
            None => (key, value),
        };
        let options = AttentionOptions {
            scale: (self.head_dim as f64).powf(-0.5),
            sliding_window: self.sliding_window,
            softcap: None,
        };
        let output = attention(query, key, value, state.segments.clone(), options);
        self.o_proj.forward(output.reshape([batch * length, self.heads * self.head_dim]), dropout)
    }
}

impl<B: FusedBackend> Mlp<B> {
    fn load(loader: &mut Loader<B>, config: &ModelConfig, prefix: &str) -> Result<Self> {
        let (hidden, inner, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        Ok(Self {
            gate_proj: loader.linear(&format!("{prefix}.gate_proj"), inner, hidden, bias)?,
            up_proj: loader.linear(&format!("{prefix}.up_proj"), inner, hidden, bias)?,
            down_proj: loader.linear(&format!("{prefix}.down_proj"), hidden, inner, bias)?,
        })
    }

    fn forward(&self, x: Tensor<B, 2>, dropout: Option<DropoutSeed>) -> Tensor<B, 2> {
        let gate = self.gate_proj.forward(x.clone(), dropout);
        let up = self.up_proj.forward(x, dropout);
        self.down_proj.forward(swiglu(gate, up), dropout)
    }
}

/// What every block of a forward pass shares.
#[derive(Debug, Clone)]
pub struct BlockState<B: Backend> {
    /// `[batch, length]`.
    dims: [usize; 2],
    rotary: RotaryTable<B>,
    segments: Option<Tensor<B, 2, burn::tensor::Int>>,
    dropout: Option<DropoutSeed>,
}

impl<B: FusedBackend> Block<B> {
    fn load(loader: &mut Loader<B>, config: &ModelConfig, index: usize) -> Result<Self> {
        let (prefix, hidden) = (format!("model.layers.{index}"), config.hidden_size);
        Ok(Self {
            input_layernorm: loader.norm(&format!("{prefix}.input_layernorm.weight"), hidden)?,
            self_attn: SelfAttention::load(loader, config, &format!("{prefix}.self_attn"))?,
            post_attention_layernorm: loader.norm(&format!("{prefix}.post_attention_layernorm.weight"), hidden)?,
            mlp: Mlp::load(loader, config, &format!("{prefix}.mlp"))?,
            epsilon: config.rms_norm_eps,
        })
    }

    /// The block on `[batch · length, hidden_size]`.
    pub fn forward(&self, stream: Stream<B>, state: &BlockState<B>, cache: Option<&mut LayerCache<B>>) -> Stream<B> {
        let (x, normed) = stream.normed(self.input_layernorm.val(), self.epsilon);
        let update = self.self_attn.forward(normed, state, cache);
        let stream = Stream { x, update: Some(update) };
        let (x, normed) = stream.normed(self.post_attention_layernorm.val(), self.epsilon);
        Stream { x, update: Some(self.mlp.forward(normed, state.dropout)) }
    }
}

/// The residual stream, and what is about to be added to it: adding and normalising are one operation.
#[derive(Debug, Clone)]
pub struct Stream<B: Backend> {
    x: Tensor<B, 2>,
    update: Option<Tensor<B, 2>>,
}

impl<B: FusedBackend> Stream<B> {
    /// The stream with its update, and its norm.
    fn normed(self, weight: Tensor<B, 1>, epsilon: f64) -> (Tensor<B, 2>, Tensor<B, 2>) {
        match self.update {
            Some(update) => add_rms_norm(self.x, update, weight, epsilon),
            None => (self.x.clone(), rms_norm(self.x, weight, epsilon)),
        }
    }
}

impl<B: FusedBackend> Llama<B> {
    /// Builds the model from the loader's weights.
    ///
    /// # Errors
    /// When a tensor can't be read.
    pub fn load(config: &ModelConfig, loader: &mut Loader<B>) -> Result<Self> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        Ok(Self {
            embed_tokens: loader.matrix("model.embed_tokens.weight", vocab, hidden)?,
            layers: (0..config.num_hidden_layers).map(|index| Block::load(loader, config, index)).collect::<Result<_>>()?,
            norm: loader.norm("model.norm.weight", hidden)?,
            lm_head: (!config.tie_word_embeddings).then(|| loader.linear("lm_head", vocab, hidden, false)).transpose()?,
            epsilon: config.rms_norm_eps,
            rope: Rope::new(config),
        })
    }

    /// Every tensor that a checkpoint of this configuration has, with its shape.
    pub fn tensor_shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
        let (vocab, hidden, inner) = (config.vocab_size, config.hidden_size, config.intermediate_size);
        let query = config.num_attention_heads * config.head_dim;
        let key_value = config.num_key_value_heads * config.head_dim;
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![vocab, hidden])];
        for index in 0..config.num_hidden_layers {
            let mut push = |name: &str, shape: Vec<usize>| shapes.push((format!("model.layers.{index}.{name}"), shape));
            push("input_layernorm.weight", vec![hidden]);
            for (name, outputs, inputs, bias) in [
                ("self_attn.q_proj", query, hidden, config.attention_bias),
                ("self_attn.k_proj", key_value, hidden, config.attention_bias),
                ("self_attn.v_proj", key_value, hidden, config.attention_bias),
                ("self_attn.o_proj", hidden, query, config.attention_bias),
                ("mlp.gate_proj", inner, hidden, config.mlp_bias),
                ("mlp.up_proj", inner, hidden, config.mlp_bias),
                ("mlp.down_proj", hidden, inner, config.mlp_bias),
            ] {
                push(&format!("{name}.weight"), vec![outputs, inputs]);
                if bias {
                    push(&format!("{name}.bias"), vec![outputs]);
                }
            }
            push("post_attention_layernorm.weight", vec![hidden]);
        }
        shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !config.tie_word_embeddings {
            shapes.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
        }
        shapes
    }

    /// Hidden states after the last norm, `[batch · length, hidden_size]`.
    pub fn hidden_states(&self, input: &ModelInput<B>, mut cache: Option<&mut Cache<B>>) -> Tensor<B, 2> {
        let [batch, length] = input.tokens.dims();
        let device = input.tokens.device();
        let state = BlockState {
            dims: [batch, length],
            rotary: self.rope.table(&input.positions, &device),
            segments: input.segments.clone(),
            dropout: input.dropout,
        };
        let x = self.embed_tokens.val().select(0, input.tokens.clone().reshape([batch * length]));
        let mut stream = Stream { x, update: None };
        for (index, block) in self.layers.iter().enumerate() {
            stream = block.forward(stream, &state, cache.as_deref_mut().map(|cache| cache.layer(index)));
        }
        stream.normed(self.norm.val(), self.epsilon).1
    }

    /// The weight that turns hidden states into logits, `[vocab_size, hidden_size]`.
    pub fn head(&self) -> Tensor<B, 2> {
        self.lm_head.as_ref().map_or_else(|| self.embed_tokens.val(), |head| head.weight.val())
    }

    /// The linear layers of the blocks under their checkpoint names (without `.weight`), first block first.
    pub fn linears(&self) -> Vec<(String, &Linear<B>)> {
        let mut linears = Vec::new();
        for (index, block) in self.layers.iter().enumerate() {
            let (attention, mlp) = (&block.self_attn, &block.mlp);
            let named = [
                ("self_attn.q_proj", &attention.q_proj),
                ("self_attn.k_proj", &attention.k_proj),
                ("self_attn.v_proj", &attention.v_proj),
                ("self_attn.o_proj", &attention.o_proj),
                ("mlp.gate_proj", &mlp.gate_proj),
                ("mlp.up_proj", &mlp.up_proj),
                ("mlp.down_proj", &mlp.down_proj),
            ];
            linears.extend(named.map(|(name, linear)| (format!("model.layers.{index}.{name}"), linear)));
        }
        linears
    }

    /// As [`Llama::linears`], to attach adapters.
    pub fn linears_mut(&mut self) -> Vec<(String, &mut Linear<B>)> {
        let mut linears = Vec::new();
        for (index, block) in self.layers.iter_mut().enumerate() {
            let (attention, mlp) = (&mut block.self_attn, &mut block.mlp);
            let named = [
                ("self_attn.q_proj", &mut attention.q_proj),
                ("self_attn.k_proj", &mut attention.k_proj),
                ("self_attn.v_proj", &mut attention.v_proj),
                ("self_attn.o_proj", &mut attention.o_proj),
                ("mlp.gate_proj", &mut mlp.gate_proj),
                ("mlp.up_proj", &mut mlp.up_proj),
                ("mlp.down_proj", &mut mlp.down_proj),
            ];
            linears.extend(named.map(|(name, linear)| (format!("model.layers.{index}.{name}"), linear)));
        }
        linears
    }

    /// The weights outside of linear layers of blocks: embedding, norms, head.
    pub fn other_weights(&self) -> (NamedWeights<'_, B, 1>, NamedWeights<'_, B, 2>) {
        let mut vectors = Vec::new();
        for (index, block) in self.layers.iter().enumerate() {
            vectors.push((format!("model.layers.{index}.input_layernorm.weight"), &block.input_layernorm));
            vectors.push((format!("model.layers.{index}.post_attention_layernorm.weight"), &block.post_attention_layernorm));
        }
        vectors.push(("model.norm.weight".to_owned(), &self.norm));
        let mut matrices = vec![("model.embed_tokens.weight".to_owned(), &self.embed_tokens)];
        if let Some(head) = &self.lm_head {
            matrices.push(("lm_head.weight".to_owned(), &head.weight));
        }
        (vectors, matrices)
    }
}
