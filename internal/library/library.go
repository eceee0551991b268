package library

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Tiny is the name of the embedded model.
const Tiny = "tiny"

// Options say where models are.
type Options struct {
	CacheDir string // absolute; the embedded model is unpacked below it
	// HubDirs are folders in the layout of the Hugging Face cache; the first that has a name wins. Nil means the cache
	// of this user, where HF_HUB_CACHE, HF_HOME or the convention puts it; a list that is empty means none.
	HubDirs []string
	// Settings change single models.
	Settings []Setting
}

// Library finds models. Its methods are safe for concurrent use. What it found out about a folder it keeps until a file
// there changes.
type Library struct {
	hubs     []string
	tiny     *unpacked
	settings []Setting
	// onCPU says that models run in float32, whatever their weights are in.
	onCPU bool

	mu   sync.Mutex
	seen map[string]finding // by folder; guarded by mu
}

// finding is what a look at a folder told, good or bad.
type finding struct {
	stamp string // of the files that were looked at
	model cluster.Model
	err   error
}

// findingsKept bounds the folders that are remembered: whoever asks for paths at random must not fill the memory.
const findingsKept = 1024

// Open unpacks the embedded model, unless it is there whole, and returns a Library.
func Open(o Options) (*Library, error) {
	if !filepath.IsAbs(o.CacheDir) {
		return nil, errors.New("open model library: the cache's path must be absolute")
	}
	hubs := o.HubDirs
	if hubs == nil {
		hubs = userHubs(os.Getenv)
	}
	tiny, err := unpackTiny(o.CacheDir)
	if err != nil {
		return nil, err
	}
	return &Library{
		hubs: hubs, tiny: tiny, settings: o.Settings, onCPU: runtime.GOOS != "darwin", seen: make(map[string]finding),
	}, nil
}

// Resolve finds the model of that name and the folder that holds it. Its errors are *cluster.Error: CodeNoModel where
// there is no such model, CodeBadModel for one that is incomplete or damaged, CodeInvalid for what can be no name.
func (l *Library) Resolve(ctx context.Context, name string) (cluster.Model, string, error) {
	if err := ctx.Err(); err != nil {
		return cluster.Model{}, "", err
	}
	place, err := l.locate(name)
	if err != nil {
		return cluster.Model{}, "", err
	}
	m, err := l.look(ctx, place)
	if err != nil {
		return cluster.Model{}, "", place.explain(err)
	}
	m, err = l.apply(ctx, m)
	return m, place.dir, err
}

// List returns the models that Resolve knows by name and that can be loaded, ordered by name after the embedded one.
func (l *Library) List(ctx context.Context) ([]cluster.Model, error) {
	var models []cluster.Model
	for _, name := range append([]string{Tiny}, l.hubNames()...) {
		m, _, err := l.Resolve(ctx, name)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil {
			models = append(models, m)
		}
	}
	return models, nil
}

// place is where a name leads.
type place struct {
	name     string
	dir      string
	revision string
	isHub    bool
}

// locate finds the folder of a name.
func (l *Library) locate(name string) (place, error) {
	switch {
	case name == "":
		return place{}, cluster.Invalid("model", "is missing")
	case name == Tiny:
		dir, err := l.tiny.ensure()
		if err != nil {
			return place{}, cluster.Errorf(cluster.CodeInternal, "%v", err)
		}
		return place{name: name, dir: dir}, nil
	case filepath.IsAbs(name):
		return locateFolder(name)
	case !isHubName(name):
		return place{}, cluster.Invalid("model", `must be "tiny", "org/repo" or the absolute path of a folder`)
	}
	for _, hub := range l.hubs {
		p, err := locateInHub(hub, name)
		if !errors.Is(err, os.ErrNotExist) {
			return p, err
		}
	}
	return place{}, l.unknown(name)
}

func locateFolder(path string) (place, error) {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return place{}, cluster.Errorf(cluster.CodeNoModel, "there is no folder %s", path)
	case err != nil:
		return place{}, badModel("%s cannot be read: %s", path, reason(err))
	case !info.IsDir():
		return place{}, badModel("%s is not a folder", path).
			WithHint("name the folder that holds config.json and the weights")
	}
	return place{name: path, dir: path}, nil
}

// look states the facts of a model, anew only when one of its files has changed.
func (l *Library) look(ctx context.Context, p place) (cluster.Model, error) {
	files, err := scan(p.dir)
	if err != nil {
		return cluster.Model{}, err
	}
	stamp := files.stamp()
	l.mu.Lock()
	f, ok := l.seen[p.dir]
	l.mu.Unlock()
	if !ok || f.stamp != stamp {
		f = finding{stamp: stamp}
		f.model, f.err = l.inspect(ctx, p.dir, files)
		if ctx.Err() != nil {
			return cluster.Model{}, ctx.Err()
		}
		l.remember(p.dir, f)
	}
	m := f.model
	m.Name, m.Revision = p.name, p.revision
	return m, f.err
}

func (l *Library) remember(dir string, f finding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.seen[dir]; !ok && len(l.seen) >= findingsKept {
		clear(l.seen)
	}
	l.seen[dir] = f
}

// inspect reads a folder.
func (l *Library) inspect(ctx context.Context, dir string, files fileSet) (cluster.Model, error) {
	config, err := readConfig(dir, files)
	if err != nil {
		return cluster.Model{}, err
	}
	if err := files.checkTokenizer(dir); err != nil {
		return cluster.Model{}, err
	}
	weights, err := readWeights(dir, files)
	if err != nil {
		return cluster.Model{}, err
	}
	digest, err := digestOf(ctx, dir, files)
	if err != nil {
		return cluster.Model{}, err
	}
	width := int64(4)
	if !l.onCPU {
		width = weights.floatBytes()
	}
	all, active := parameters(config, weights)
	return cluster.Model{
		Digest:          digest,
		Architecture:    config.text("model_type"),
		Quantization:    quantization(config, weights),
		WeightBytes:     weights.bytes,
		KVBytesPerToken: config.kvElementsPerToken() * width,
		Context:         config.context(readTokenizerLimit(dir)),
		Shape:           config.shape(weights, width),
		Layers:          int(min(config.language().number(layerKeys()...), mostNumber)),
		Parameters:      all, ActiveParameters: active,
	}, nil
}

func badModel(format string, args ...any) *cluster.Error {
	return cluster.Errorf(cluster.CodeBadModel, format, args...)
}

// reason is what went wrong with a file, without the operation and the path that os puts before it.
func reason(err error) string {
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		return pathErr.Err.Error()
	}
	return strings.TrimSpace(err.Error())
}
