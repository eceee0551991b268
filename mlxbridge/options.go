package mlxbridge

import (
	"context"
	"path/filepath"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// ModelOptions say how a model runs on this machine. Zero values leave the choice to Pool and worker.
type ModelOptions struct {
	Name    string // of the model, as requests name it
	Adapter string // folder of a LoRA adapter
	Draft   string // name or folder of a draft model
	KVBits  int    // quantisation of live keys and values: 4, 8, or 0 for none
	// Context bounds prompt and answer, in tokens; zero means what the model has.
	Context int
	// MaxRows bounds the requests that run at once; zero means 32. Memory and measured step times may allow fewer.
	MaxRows     int
	MemoryBytes int64 // most that the model may claim of the budget; zero means what it can use
	// PrefixBytes and PrefixShare (percent of its claim) are for stored prefixes; zero leaves them to the worker.
	PrefixBytes int64
	PrefixShare int
	StoredBits  int           // quantisation of stored prefixes: 4, 8, or 0 for none
	SessionTTL  time.Duration // how long prefixes of a session are kept before all others; zero means 5 minutes
	SpillDir    string        // folder for stored prefixes that memory has no room for; each model has its own below it
	SpillBytes  int64         // most there, for each model; zero spills nothing
	Speculate   string        // "auto" or "off"
	Wired       string        // "weights" or "off"
	Pinned      bool          // never evicted, whoever loaded it
	IdleTTL     time.Duration // unloaded after that long without a request; zero means never
}

// options returns the options of a model: those under its name, else those for all.
func (p *Pool) options(name string) ModelOptions {
	for _, o := range p.o.Models {
		if o.Name == name {
			return o
		}
	}
	o := p.o.Options
	o.Name = name
	return o
}

// isConfigured says whether a model has options of its own.
func (p *Pool) isConfigured(name string) bool {
	for _, o := range p.o.Models {
		if o.Name == name {
			return true
		}
	}
	return false
}

func (o ModelOptions) rows() int {
	if o.MaxRows > 0 {
		return o.MaxRows
	}
	return defaultMaxRows
}

// prefixBeside is how much stored prefixes may take beside what a model uses otherwise: what was configured, or 1 GiB,
// at most an eighth of the rest.
func (o ModelOptions) prefixBeside(other int64) int64 {
	switch {
	case o.PrefixBytes > 0:
		return o.PrefixBytes
	case o.PrefixShare > 0:
		return other * int64(o.PrefixShare) / int64(100-min(o.PrefixShare, 90))
	default:
		return min(gib, other/8)
	}
}

// prefixOf is how much of a claim is for stored prefixes; zero leaves it to the worker.
func (o ModelOptions) prefixOf(claim int64) int64 {
	if o.PrefixBytes == 0 && o.PrefixShare > 0 && claim > 0 {
		return claim * int64(o.PrefixShare) / 100
	}
	return o.PrefixBytes
}

// launch is what a worker is told of the options.
func (o ModelOptions) launch() LaunchOptions {
	l := LaunchOptions{
		SessionSeconds: o.SessionTTL.Seconds(), StoredBits: o.StoredBits, Speculate: o.Speculate, Wired: o.Wired,
		Context: o.Context,
	}
	if o.SpillDir != "" && o.SpillBytes > 0 {
		l.SpillDir, l.SpillBytes = filepath.Join(o.SpillDir, LogName(o.Name)), o.SpillBytes
	}
	return l
}

// spec says how a replica is launched. Called without mu: it looks for the folder of a draft model.
func (p *Pool) spec(ctx context.Context, r *replica) (LaunchSpec, error) {
	o := p.options(r.model.Name)
	draft := o.Draft
	if draft != "" && p.o.Resolve != nil {
		var err error
		if _, draft, err = p.o.Resolve(ctx, draft); err != nil {
			e := *cluster.AsError(err)
			e.Code, e.Message = cluster.CodeBadModel, "draft of model "+r.model.Name+": "+e.Message
			return LaunchSpec{}, &e
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	spec := LaunchSpec{
		Model: r.model, Dir: r.dir, MaxRows: p.slotsOf(r), Adapter: o.Adapter, Draft: draft, KVBits: o.KVBits,
		Options: o.launch(),
	}
	if p.o.BudgetBytes > 0 {
		spec.MemoryBytes = r.planned
	}
	spec.PrefixBytes = o.prefixOf(spec.MemoryBytes)
	r.told = Settings{MemoryBytes: spec.MemoryBytes, PrefixBytes: spec.PrefixBytes, MaxRows: spec.MaxRows, Pressure: pressureNormal}
	return spec, nil
}
