package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/trust"
	"github.com/mlxctl/mlxctl/mlxbridge"
)

// inProcessTimeout bounds the start of a cluster in this process.
const inProcessTimeout = 20 * time.Second

// InProcess is controller and agent of one home in this process, wired as their own processes are, with an engine that
// the caller chooses: for measurements and tests of everything but MLX.
type InProcess struct {
	Base string // URL of the gateway, without /v1
	Key  string // for it

	home string
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu  sync.Mutex
	err error // of a service; guarded by mu
}

// StartInProcess starts them and returns when the gateway says that it is healthy. Close must be called.
func StartInProcess(ctx context.Context, models mlxbridge.Launcher, log *slog.Logger) (*InProcess, error) {
	dir, err := os.MkdirTemp("", "mlxctl-in-process-")
	if err != nil {
		return nil, fmt.Errorf("make home: %w", err)
	}
	p := &InProcess{home: dir, stop: func() {}}
	if err := p.start(ctx, models, log); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *InProcess) start(ctx context.Context, models mlxbridge.Launcher, log *slog.Logger) error {
	authority, err := trust.Init(trustDir(p.home), "in-process")
	if err != nil {
		return err
	}
	if p.Key, err = authority.APIKey(); err != nil {
		return err
	}
	for _, d := range []string{"run", "log"} {
		if err := os.MkdirAll(filepath.Join(p.home, d), 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	anyPort := &config.Config{
		Name: "in-process", HTTPAddr: "127.0.0.1:0", NATSAddr: "127.0.0.1:0", Models: config.Models{HubDirs: []string{p.home}},
	}
	local, err := planServices(anyPort, nil, false)
	if err != nil {
		return err
	}
	h := &daemonHome{
		deps: &deps{build: Build{}.orDefault(), engine: givenEngine{models}}, home: p.home, cache: filepath.Join(p.home, "cache"),
		local: local, slog: log,
	}
	p.Base = "http://" + local.HTTPAddr
	ctx, p.stop = context.WithCancel(ctx)
	for _, serve := range []func(context.Context, *daemonHome) error{serveController, serveAgent} {
		p.wg.Go(func() {
			if err := serve(ctx, h); err != nil && ctx.Err() == nil {
				p.fail(err)
				p.stop()
			}
		})
	}
	return p.awaitHealth(ctx)
}

func (p *InProcess) awaitHealth(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, inProcessTimeout)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Base+"/health", nil)
		if err != nil {
			return fmt.Errorf("make request: %w", err)
		}
		if resp, err := transport.RoundTrip(req); err == nil {
			_ = resp.Body.Close() // only its status counts
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the cluster in this process: %w", errors.Join(ctx.Err(), p.failure()))
		case <-tick.C:
		}
	}
}

func (p *InProcess) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = errors.Join(p.err, err)
}

func (p *InProcess) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Close ends both and removes what they wrote. It returns what went wrong while they ran.
func (p *InProcess) Close() error {
	p.stop()
	p.wg.Wait()
	return errors.Join(p.failure(), os.RemoveAll(p.home))
}

// givenEngine runs models as its owner says.
type givenEngine struct{ models mlxbridge.Launcher }

func (givenEngine) prepare(context.Context, config.Dirs, func(string)) error { return nil }

func (e givenEngine) launcher(string, string, *slog.Logger) mlxbridge.Launcher { return e.models }
