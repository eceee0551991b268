package cmd

import (
	"context"
	"encoding/json"
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

// attempt is what one command did to the services of this machine.
type attempt struct {
	former *formerServices
	// version and settings are what it started, or was about to; empty while it has touched nothing.
	version, settings string
	isStarted         bool // they came as far as a keeper of their own
}

// version is what people call it.
func (f *formerServices) version() string {
	v, _, _ := strings.Cut(f.Version, " ")
	return v
}

// bringUp starts the services of this machine and proves that they answer. Where those of another version than before, or with
// other settings, do not, what ran before runs again.
func (opts *upOptions) bringUp(ctx context.Context, cfg *config.Config, progress *iostreams.Progress) (localState, error) {
	var a attempt
	s, err := opts.startAndProve(ctx, cfg, &a, progress)
	if err == nil || a.settings == "" {
		return s, err
	}
	return s, opts.goBack(ctx, cfg, &a, err, progress)
}

// formerServices is called with the lock of acquire held.
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

func (opts *upOptions) startAndProve(ctx context.Context, cfg *config.Config, a *attempt, progress *iostreams.Progress) (localState, error) {
	began := time.Now()
	var s localState
	var err error
	if s.changed, err = opts.start(ctx, cfg, a, progress); err != nil {
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
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)); err != nil {
		return cluster.Errorf(cluster.CodeUnreachable, "the gateway breaks off when asked for its health: %v", err).WithHint("`mlxctl logs controller` says more")
	}
	if resp.StatusCode != http.StatusOK {
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

// goBack has what ran before run again, unless it still does, or was the same. It returns why the new one failed, and what
// runs now. It is done in any case: nobody is left with a version that has not proved itself.
func (opts *upOptions) goBack(ctx context.Context, cfg *config.Config, a *attempt, failed error, progress *iostreams.Progress) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*startTimeout)
	defer cancel()
	began := time.Now()
	isBack, err := opts.startFormer(ctx, cfg.Dirs.Home, a, progress)
	if err == nil && isBack {
		err = opts.awaitFormer(ctx, cfg, a.former, began)
	}
	switch {
	case err != nil:
		return withMore(failed, fmt.Sprintf("and %s did not come up again: %v", a.formerName(), err))
	case isBack && a.isOtherVersion():
		return withMore(failed, a.former.version()+" is back")
	case isBack:
		return withMore(failed, "the settings of before are back")
	}
	return failed
}

// startFormer starts what ran before, and says whether it did. What another command has made of the services since is left as
// it is.
func (opts *upOptions) startFormer(ctx context.Context, home string, a *attempt, progress *iostreams.Progress) (bool, error) {
	release, err := opts.acquire(ctx, home, progress)
	if err != nil {
		return false, err
	}
	defer release()
	now, err := opts.formerServices(ctx, home)
	if err != nil {
		return false, err
	}
	switch {
	case !a.isOwn(now):
		return false, nil
	case a.isUntouched(now), !now.Running && !a.former.Running:
		return false, a.former.restoreSettings(home)
	case !a.former.Running, !a.isOtherVersion() && a.former.Settings == a.settings:
		return false, nil
	}
	if _, err := os.Stat(a.former.Exe); err != nil {
		return false, errors.New("there is no copy of it")
	}
	progress.Step("going back to %s", a.formerName())
	if err := a.former.restoreSettings(home); err != nil {
		return false, err
	}
	o := opts.services(home, a.former.Settings, opts.log())
	o.Exe, o.Version, o.Finish = a.former.Exe, a.former.Version, againTimeout
	_, err = service.Start(ctx, o)
	return true, err
}

// isOwn says that what is there is of this command: the settings that it wrote; and a keeper that it started or has not
// replaced yet, or none where nobody stopped it.
func (a *attempt) isOwn(now *formerServices) bool {
	switch {
	case digestOf(now.settings) != a.settings:
		return false
	case now.Running:
		return a.isUntouched(now) || now.Version == a.version && now.Settings == a.settings
	}
	return now.Desired || !a.isStarted
}

// isUntouched says that what ran before still runs.
func (a *attempt) isUntouched(now *formerServices) bool {
	return now.Running && now.Keeper.PID == a.former.Keeper.PID
}

func (a *attempt) isOtherVersion() bool { return a.former.Version != a.version }

// formerName is what people call what ran before, as against what failed.
func (a *attempt) formerName() string {
	if a.isOtherVersion() {
		return a.former.version()
	}
	return "the settings of before"
}

// awaitFormer waits until what ran before answers.
func (opts *upOptions) awaitFormer(ctx context.Context, cfg *config.Config, former *formerServices, began time.Time) error {
	var l localSettings
	if err := json.Unmarshal(former.settings, &l); err != nil {
		return fmt.Errorf("read settings of before: %w", err)
	}
	was := *cfg
	was.NATSURL, was.NATSCreds, was.NATSCA, was.NATSServerName = l.NATSURL, l.NATSCreds, l.NATSCA, l.NATSServerName
	c, err := opts.awaitController(ctx, &was, began)
	if err != nil {
		return err
	}
	defer c.Close()
	_, _, err = opts.awaitNode(ctx, &was, c, began)
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
