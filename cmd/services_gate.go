package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/service"
)

// mostEnds is how often a service that is to come up may end by itself, as with the agent of another machine.
const mostEnds = 3

// formerServices are what the services of this machine were before a command changed them.
type formerServices struct {
	service.Status
	settings []byte // of local.json; nil where there were none
}

// version is what people call it.
func (f *formerServices) version() string {
	v, _, _ := strings.Cut(f.Version, " ")
	return v
}

// bringUp starts the services of this machine and proves that they answer. Where those of another version than before do
// not, what ran before runs again.
func (opts *upOptions) bringUp(ctx context.Context, cfg *config.Config, progress *iostreams.Progress) (localState, error) {
	former, err := opts.formerServices(ctx, cfg.Dirs.Home)
	if err != nil {
		return localState{}, err
	}
	s, err := opts.startAndProve(ctx, cfg, progress)
	if err == nil {
		return s, nil
	}
	return s, opts.goBack(ctx, cfg, former, err, progress)
}

func (d *deps) formerServices(ctx context.Context, home string) (*formerServices, error) {
	status, err := service.Settled(ctx, d.services(home, "", d.log()))
	if err != nil {
		return nil, err
	}
	settings, err := os.ReadFile(localPath(home))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read settings of the services: %w", err)
	}
	return &formerServices{status, settings}, nil
}

func (opts *upOptions) startAndProve(ctx context.Context, cfg *config.Config, progress *iostreams.Progress) (localState, error) {
	began := time.Now()
	var s localState
	var err error
	if s.changed, err = opts.start(ctx, cfg, progress); err != nil {
		return s, err
	}
	if !s.changed {
		if s.changed, err = opts.restartHung(ctx, cfg, began, progress); err != nil {
			return s, err
		}
	}
	c, snapshot, err := opts.prove(ctx, cfg, began, s.changed, progress)
	if err == nil && s.changed {
		if err = opts.proveVersion(ctx, cfg.Dirs.Home, snapshot); err != nil {
			c.Close()
		}
	}
	if err == nil {
		s.client, s.snapshot = c, snapshot
	}
	return s, err
}

// proveVersion asks whether controller and agent are those of this program, and whether the gateway answers.
func (opts *upOptions) proveVersion(ctx context.Context, home string, s *cluster.Snapshot) error {
	info, err := opts.readInfo(home)
	if err != nil {
		return err
	}
	if info == nil {
		return notRunning(home)
	}
	versions := map[string]string{"controller": info.Version}
	if n := nodeIn(s, localNode(home)); n != nil {
		versions["agent"] = n.Version
	}
	for name, v := range versions {
		if v != opts.build.Version {
			return cluster.Errorf(cluster.CodeInternal, "the %s that came up is of version %s, not %s", name, v, opts.build.Version)
		}
	}
	return askHealth(ctx, info.HTTP)
}

func askHealth(ctx context.Context, base string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/health", nil)
	if err != nil {
		return fmt.Errorf("ask the gateway: %w", err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return cluster.Errorf(cluster.CodeUnreachable, "the gateway does not answer: %v", err).WithHint("`mlxctl logs controller` says more")
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)); err != nil || resp.StatusCode != http.StatusOK {
		return cluster.Errorf(cluster.CodeUnreachable, "the gateway answers %q when asked for its health", resp.Status).WithHint("`mlxctl logs controller` says more")
	}
	return nil
}

// keepsEnding is the error of a service of a keeper that began since then, and that ends again and again.
func keepsEnding(home, name string, s service.Status, since time.Time) error {
	if s.Keeper.Since.Before(since) {
		return nil
	}
	for _, c := range s.Children {
		if c.Name == name && c.Restarts >= mostEnds {
			last := "wrote nothing to its log"
			if line := service.LastLine(home, name, s.Keeper.Since); line != "" {
				last = "wrote last: " + printer.Clean(line)
			}
			return cluster.Errorf(cluster.CodeInternal, "the %s ended by itself %d times (%s), and %s", name, c.Restarts, c.LastExit, last).
				WithHint("`mlxctl logs %s` says more", name)
		}
	}
	return nil
}

// goBack has what ran before run again, unless it still does, or is of the same version. It returns why the new one failed,
// and what runs now. It is done in any case: nobody is left with a version that has not proved itself.
func (opts *upOptions) goBack(ctx context.Context, cfg *config.Config, former *formerServices, failed error, progress *iostreams.Progress) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*startTimeout)
	defer cancel()
	home := cfg.Dirs.Home
	now, err := service.Read(opts.services(home, "", opts.log()))
	if err != nil {
		return fmt.Errorf("%w; and what runs now is not known: %w", failed, err)
	}
	switch {
	case !former.Running && now.Running:
		return failed
	case !now.Running && !former.Running, now.Running && now.Keeper.PID == former.Keeper.PID:
		if err := former.restoreSettings(home); err != nil {
			return fmt.Errorf("%w; and the settings of the services are not those of before: %w", failed, err)
		}
		return failed
	case former.Version == opts.services(home, "", nil).Version:
		return failed
	}
	if _, err := os.Stat(former.Exe); err != nil {
		return withMore(failed, "and there is no copy of "+former.version()+" to go back to")
	}
	progress.Step("going back to %s", former.version())
	if err := opts.startFormer(ctx, cfg, former, progress); err != nil {
		return withMore(failed, fmt.Sprintf("and %s did not come up again: %v", former.version(), err))
	}
	return withMore(failed, former.version()+" is back")
}

// startFormer starts what ran before and waits until it does.
func (opts *upOptions) startFormer(ctx context.Context, cfg *config.Config, former *formerServices, progress *iostreams.Progress) error {
	home := cfg.Dirs.Home
	began := time.Now()
	err := func() error {
		release, err := opts.acquire(ctx, home, progress)
		if err != nil {
			return err
		}
		defer release()
		if err := former.restoreSettings(home); err != nil {
			return err
		}
		o := opts.services(home, former.Settings, opts.log())
		o.Exe, o.Version, o.Finish = former.Exe, former.Version, againTimeout
		_, err = service.Start(ctx, o)
		return err
	}()
	if err != nil {
		return err
	}
	c, err := opts.awaitController(ctx, cfg, began)
	if err != nil {
		return err
	}
	defer c.Close()
	_, _, err = opts.awaitNode(ctx, cfg, c, began)
	return err
}

func (f *formerServices) restoreSettings(home string) error {
	there, err := os.ReadFile(localPath(home))
	if f.settings == nil || (err == nil && string(there) == string(f.settings)) {
		return nil
	}
	return config.WriteFile(localPath(home), f.settings)
}

// withMore adds to the message of an error.
func withMore(err error, more string) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w; %s", err, more) // still an interruption
	}
	e := *cluster.AsError(err)
	e.Message = err.Error() + "; " + more
	return &e
}
