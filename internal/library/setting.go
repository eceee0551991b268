package library

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// draftTokens is the row that a draft model has room for: it drafts for one at a time.
const draftTokens = 4096

const (
	adapterConfig  = "adapter_config.json"
	adapterWeights = "adapters.safetensors"
)

// Setting is what a node's settings change about one model.
type Setting struct {
	Name    string // of the model
	Adapter string // folder of a LoRA adapter, as mlx_lm.lora writes it: adapter_config.json and adapters.safetensors
	Draft   string // name or folder of a draft model
	KVBits  int
	Context int // tokens; 0 leaves the model's own
}

// apply changes the facts of a model as its setting says.
//
// An adapter and quantised keys and values change the answers, so they are part of the digest: a stream that began on
// a node with them goes on only on another one with the same. A draft model does not change what is answered, and stored
// prefixes are used or not on one and the same node, so neither is.
func (l *Library) apply(ctx context.Context, m cluster.Model) (cluster.Model, error) {
	i := slices.IndexFunc(l.settings, func(s Setting) bool { return s.Name == m.Name })
	if i < 0 {
		return m, nil
	}
	s := l.settings[i]
	var adapter adapter
	if s.Adapter != "" {
		var err error
		if adapter, err = l.adapter(ctx, s.Adapter); err != nil {
			return cluster.Model{}, about("adapter", s, err)
		}
	}
	m.Shape.ExtraBytes = adapter.bytes
	if s.Draft != "" {
		draft, err := l.draft(ctx, s.Draft)
		if err != nil {
			return cluster.Model{}, about("draft", s, err)
		}
		m.Shape.ExtraBytes += draft.WeightBytes + draft.KVBytesPerToken*draftTokens
		if l.onCPU {
			m.Shape.ExtraBytes += draft.Shape.HalfBytes
		}
	}
	if adapter.digest != "" || s.KVBits > 0 {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s adapter %s kv_bits %d", m.Digest, adapter.digest, s.KVBits))
		m.Digest = "sha256:" + hex.EncodeToString(sum[:])
	}
	if s.Context > 0 {
		m.Context = min(m.Context, s.Context)
	}
	return m, nil
}

// about says of which part of a setting an error is.
func about(part string, s Setting, err error) error {
	e := *cluster.AsError(err)
	e.Message = fmt.Sprintf("%s of model %s: %s", part, s.Name, e.Message)
	if e.Code == cluster.CodeNoModel {
		e.Code = cluster.CodeBadModel
	}
	return &e
}

// draft is the facts of a draft model, which its own setting does not change.
func (l *Library) draft(ctx context.Context, name string) (cluster.Model, error) {
	p, err := l.locate(name)
	if err != nil {
		return cluster.Model{}, err
	}
	m, err := l.look(ctx, p)
	if err != nil {
		return cluster.Model{}, p.explain(err)
	}
	return m, nil
}

// adapter is what is known of a folder with an adapter.
type adapter struct {
	bytes  int64
	digest string
}

// adapter reads a folder, anew only when one of its files has changed.
func (l *Library) adapter(ctx context.Context, dir string) (adapter, error) {
	files, err := adapterFiles(dir)
	if err != nil {
		return adapter{}, err
	}
	key, stamp := "adapter\x00"+dir, files.stamp()
	l.mu.Lock()
	f, ok := l.seen[key]
	l.mu.Unlock()
	if !ok || f.stamp != stamp {
		f = finding{stamp: stamp}
		f.model, f.err = inspectAdapter(ctx, dir, files)
		if ctx.Err() != nil {
			return adapter{}, ctx.Err()
		}
		l.remember(key, f)
	}
	return adapter{bytes: f.model.WeightBytes, digest: f.model.Digest}, f.err
}

func adapterFiles(dir string) (fileSet, error) {
	var files fileSet
	for _, name := range []string{adapterConfig, adapterWeights} {
		info, err := os.Stat(filepath.Join(dir, name))
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil, badModel("there is no %s in %s", name, dir)
		case err != nil:
			return nil, badModel("%s cannot be read: %s", filepath.Join(dir, name), reason(err))
		case !info.Mode().IsRegular():
			return nil, badModel("%s is not a file", filepath.Join(dir, name))
		}
		files = append(files, file{name: name, size: info.Size(), time: info.ModTime().UnixNano()})
	}
	return files, nil
}

func inspectAdapter(ctx context.Context, dir string, files fileSet) (cluster.Model, error) {
	data, err := files.read(dir, adapterConfig, configMost)
	if err != nil {
		return cluster.Model{}, err
	}
	var config map[string]any
	if json.Unmarshal(data, &config) != nil || config == nil {
		return cluster.Model{}, badModel("%s in %s is no JSON object", adapterConfig, dir)
	}
	w := weights{byDType: make(map[string]int64)}
	tensors, _ := files.find(adapterWeights)
	if err := w.add(dir, tensors); err != nil {
		return cluster.Model{}, badModel("%s in %s %s", adapterWeights, dir, reason(err))
	}
	digest, err := digestOf(ctx, dir, files)
	return cluster.Model{WeightBytes: w.bytes, Digest: digest}, err
}
