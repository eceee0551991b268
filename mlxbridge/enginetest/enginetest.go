// Package enginetest has an Engine that needs no MLX, for tests of faults and of scale, the suite of promises that
// every Engine keeps, and the one environment in which tests of all packages run real workers.
package enginetest

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
)

const (
	defaultContext = 8192
	defaultRows    = 32
)

// Script says how engines of a Launcher behave. The zero Script loads at once and answers at once.
type Script struct {
	// Reply makes the tokens of an answer; nil means Skills. It is called by many goroutines at once.
	Reply func(*cluster.Request) []string
	// TokensPerSecond is the rate of each row; zero means at once, one token a chunk.
	TokensPerSecond float64
	Prefill         time.Duration // before the first token
	CrashAt         int           // the engine dies instead of giving the k-th token of an answer; zero means never
	HangAt          int           // the engine gives nothing more, to nobody, from the k-th token of an answer on
	// Hold keeps each answer before its last token until it is closed; nil means that none is kept.
	Hold        <-chan struct{}
	LoadFor     time.Duration
	Refuse      error          // what Launch returns
	IsDeaf      bool           // the engine does nothing that it is told by Set
	WeightBytes int64          // as the engine measures them; zero means as the model says
	Context     int            // tokens; zero means 8192
	Curve       *cluster.Curve // what it says that it measured
}

// Launcher starts fake engines. It is safe for concurrent use.
type Launcher struct {
	mu       sync.Mutex
	script   Script
	launches int
	engines  []*Engine
}

// NewLauncher makes a Launcher whose engines follow script.
func NewLauncher(script Script) *Launcher { return &Launcher{script: script} }

// SetScript changes how engines behave that are launched from now on.
func (l *Launcher) SetScript(script Script) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.script = script
}

// Launch starts a fake engine; see mlxbridge.Launcher. It refuses what the script says, after the time to load.
func (l *Launcher) Launch(ctx context.Context, spec mlxbridge.LaunchSpec) (mlxbridge.Engine, error) {
	l.mu.Lock()
	script := l.script
	l.launches++
	l.mu.Unlock()
	if script.LoadFor > 0 {
		timer := time.NewTimer(script.LoadFor)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	if script.Refuse != nil {
		return nil, script.Refuse
	}
	e := newEngine(script, spec)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.engines = append(l.living(), e)
	return e, nil
}

// Engines lists the engines that live, oldest first.
func (l *Launcher) Engines() []*Engine {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.engines = l.living()
	return slices.Clone(l.engines)
}

func (l *Launcher) living() []*Engine {
	return slices.DeleteFunc(l.engines, func(e *Engine) bool {
		select {
		case <-e.done:
			return true
		default:
			return false
		}
	})
}

// Launches counts the calls of Launch.
func (l *Launcher) Launches() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.launches
}
