package tui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Options of Run. Feed is required.
type Options struct {
	Feed Feed
	// In and Out are the terminal; nil means stdin and stdout. Nothing else may write to it meanwhile.
	In  io.Reader
	Out io.Writer
	// Env decides about colours and symbols; nil means that of the process. NO_COLOR takes the colours away, and TERM=dumb
	// gives one plain line a second in place of a screen.
	Env []string
	// Title of the window; empty means "mlxctl" and the name of the cluster.
	Title string
	// Symbols is one of the Symbols constants; empty means SymbolsAuto.
	Symbols string
}

// frames is how often a second the terminal is written to, at most.
const frames = 20

// Run shows the dashboard until the user quits, which is no error, or ctx ends, which gives its cause. It leaves the
// terminal as it was and waits for what it started. Signals are the caller's: let them end ctx.
func Run(ctx context.Context, o Options) error {
	if o.Feed == nil {
		return errors.New("run dashboard: no feed")
	}
	if o.Env == nil {
		o.Env = os.Environ()
	}
	if o.Out == nil {
		o.Out = os.Stdout
	}
	symbols, err := symbols(o.Symbols, o.Env)
	if err != nil {
		return err
	}
	own, cancel := context.WithCancel(ctx)
	p := newPump(o.Feed)
	var wg sync.WaitGroup
	wg.Go(func() { p.run(own) })
	defer wg.Wait()
	defer cancel()
	if isDumb(o.Env) {
		return plain(own, p, o.Out)
	}
	m := newModel(listen(own, p), symbols, cleaner{}.text(o.Title), time.Local)
	return show(ctx, m, o)
}

// listen makes the commands through which news reach the model.
func listen(ctx context.Context, p *pump) sources {
	return sources{
		update: func(gap time.Duration) tea.Cmd {
			return func() tea.Msg {
				if u, ok := p.take(ctx, gap); ok {
					return updateMsg{u, time.Now()}
				}
				return nil
			}
		},
		clock: func() tea.Msg {
			if pause(ctx, time.Second) {
				return clockMsg(time.Now())
			}
			return nil
		},
	}
}

// show runs the program on the terminal.
func show(ctx context.Context, m *model, o Options, more ...tea.ProgramOption) error {
	options := []tea.ProgramOption{
		tea.WithContext(ctx), tea.WithOutput(o.Out), tea.WithEnvironment(o.Env), tea.WithFPS(frames),
		tea.WithoutSignalHandler(), tea.WithColorProfile(profile(o.Out, o.Env)),
	}
	if o.In != nil {
		options = append(options, tea.WithInput(o.In))
	}
	_, err := tea.NewProgram(m, append(options, more...)...).Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("run dashboard: %w", err)
	}
	return nil
}

// profile is how many colours the terminal has; none where NO_COLOR is set to anything.
func profile(out io.Writer, env []string) colorprofile.Profile {
	p := colorprofile.Detect(out, env)
	if variable(env, "NO_COLOR") != "" && p > colorprofile.ASCII {
		return colorprofile.ASCII
	}
	return p
}

// err makes an error that can be drawn.
func (c cleaner) err(err error) *cluster.Error {
	e := cluster.AsError(err)
	if e == nil {
		return nil
	}
	return &cluster.Error{Code: e.Code, Message: c.text(e.Message), Hint: c.text(e.Hint)}
}
