// Package enginetest has an Engine that needs no MLX, for tests of faults and of scale, and the suite of promises
// that every Engine keeps.
package enginetest

import (
	"context"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
)

// Script says how engines of a Launcher behave. The zero Script loads at once and answers at once.
type Script struct {
	// Reply makes the tokens of an answer; nil means Skills.
	Reply func(*cluster.Request) []string
	// TokensPerSecond is the rate of each row; zero means at once.
	TokensPerSecond float64
	Prefill         time.Duration // before the first token
	CrashAt         int           // the engine dies instead of giving the k-th token of an answer; zero means never
	HangAt          int           // the engine gives nothing more, to nobody, from the k-th token of an answer on
	LoadFor         time.Duration
	Refuse          error // what Launch returns
	Context         int   // tokens; zero means 8192
}

// Launcher starts fake engines.
type Launcher struct{ script Script }

// NewLauncher makes a Launcher whose engines follow script.
func NewLauncher(script Script) *Launcher { return &Launcher{script: script} }

// SetScript changes how engines behave that are launched from now on.
func (l *Launcher) SetScript(script Script) { l.script = script }

func (l *Launcher) Launch(ctx context.Context, spec mlxbridge.LaunchSpec) (mlxbridge.Engine, error) {
	return nil, nil
}

// Engines lists the engines that live, oldest first.
func (l *Launcher) Engines() []*Engine { return nil }

// Launches counts the calls of Launch.
func (l *Launcher) Launches() int { return 0 }

// Engine is a fake engine.
type Engine struct{}

// Crash ends the engine as a killed worker would.
func (e *Engine) Crash() {}

// Skills answers "Count from A to B." and says "ok" to anything else.
func Skills(req *cluster.Request) []string { return nil }
