package unit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
)

// systemd is a service of the user's own systemd, which runs from boot where the user may linger.
type systemd struct {
	Spec
	path string
}

var _ Driver = (*systemd)(nil)

func newSystemd(s Spec) *systemd {
	return &systemd{s, filepath.Join(s.UserHome, ".config", "systemd", "user", s.name()+".service")}
}

func (u *systemd) Kind() plan.UnitKind { return plan.UnitSystemd }

// control talks to the user's systemd, which a session over SSH does not always know how to find.
func (u *systemd) control(ctx context.Context, args ...string) (string, error) {
	runtimeDir := os.Getenv("XDG_RUNTIME_DIR")
	if runtimeDir == "" {
		runtimeDir = "/run/user/" + strconv.Itoa(u.UID)
	}
	return command(ctx, "", append([]string{"env", "XDG_RUNTIME_DIR=" + runtimeDir, "systemctl", "--user"}, args...)...)
}

func (u *systemd) available(ctx context.Context) error {
	_, err := u.control(ctx, "show-environment")
	return err
}

func (u *systemd) Text() ([]byte, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "[Unit]\nDescription=mlxctl agent\nStartLimitIntervalSec=0\n\n[Service]\n")
	for _, v := range u.environment() {
		fmt.Fprintf(&b, "Environment=%s\n", systemdQuote(v.Name+"="+v.Value))
	}
	fmt.Fprintf(&b, "ExecStart=%s agent\n", systemdQuote(u.exe()))
	fmt.Fprintf(&b, "Restart=always\nRestartSec=2\nTimeoutStopSec=60\nKillMode=mixed\nLimitNOFILE=65536\n")
	log := strings.ReplaceAll(u.Log(), "%", "%%")
	fmt.Fprintf(&b, "StandardOutput=append:%s\nStandardError=append:%s\n\n[Install]\nWantedBy=default.target\n", log, log)
	return []byte(b.String()), nil
}

// systemdQuote makes one word of a line of a unit out of any text.
func systemdQuote(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$").Replace(text) + `"`
}

func (u *systemd) Installed() ([]byte, error) { return readFile(u.path) }

func (u *systemd) Install(ctx context.Context, text []byte) error {
	if err := writeFile(u.path, text, 0o644); err != nil {
		return err
	}
	if _, err := u.control(ctx, "daemon-reload"); err != nil {
		return fmt.Errorf("install unit: %w", err)
	}
	return nil
}

func (u *systemd) Start(ctx context.Context) error {
	if err := u.linger(ctx); err != nil {
		return err
	}
	_, _ = u.control(ctx, "reset-failed", u.unit()) // begins to count anew; one that is not loaded has nothing to count
	for _, args := range [][]string{{"enable", u.unit()}, {"restart", u.unit()}} {
		if _, err := u.control(ctx, args...); err != nil {
			return fmt.Errorf("start unit: %w", err)
		}
	}
	return nil
}

// lingerMark is there while it is this home that has the user linger.
func (u *systemd) lingerMark() string { return filepath.Join(u.Home, "run", "linger.unit") }

// linger has the user's systemd run without a session. Without it the agent ends with the last one; that is worth less, but
// it serves.
func (u *systemd) linger(ctx context.Context) error {
	out, err := command(ctx, "", "loginctl", "show-user", u.User, "-p", "Linger")
	if err == nil && strings.TrimSpace(out) == "Linger=yes" {
		return nil
	}
	if err := writeFile(u.lingerMark(), nil, 0o600); err != nil { // first: whoever is killed behind it takes back too much, not too little
		return err
	}
	if u.login(ctx, "enable-linger") != nil {
		return removeFile(u.lingerMark())
	}
	return nil
}

// unlinger takes linger back where it was ours and nothing else of ours is in need of it.
func (u *systemd) unlinger(ctx context.Context) error {
	if _, err := os.Stat(u.lingerMark()); err != nil {
		return nil
	}
	if others, _ := filepath.Glob(filepath.Join(filepath.Dir(u.path), "mlxctl-agent*.service")); len(others) > 0 {
		return nil
	}
	_ = u.login(ctx, "disable-linger") // that the user lingers harms nobody
	return removeFile(u.lingerMark())
}

func (u *systemd) login(ctx context.Context, verb string) error {
	_, err := command(ctx, "", "loginctl", verb, u.User)
	if err != nil {
		err = u.root(ctx, "loginctl", verb, u.User)
	}
	return err
}

func (u *systemd) unit() string { return u.name() + ".service" }

func (u *systemd) Stop(ctx context.Context) error {
	if text, err := u.Installed(); text == nil {
		return err
	}
	if _, err := u.control(ctx, "disable", "--now", u.unit()); err != nil {
		return fmt.Errorf("stop unit: %w", err)
	}
	return nil
}

func (u *systemd) Remove(ctx context.Context) error {
	text, err := u.Installed()
	if err != nil {
		return err
	}
	if text == nil {
		return u.unlinger(ctx)
	}
	if err := u.Stop(ctx); err != nil {
		return err
	}
	if err := removeFile(u.path); err != nil {
		return err
	}
	if _, err := u.control(ctx, "daemon-reload"); err != nil {
		return fmt.Errorf("remove unit: %w", err)
	}
	return u.unlinger(ctx)
}

func (u *systemd) Status(ctx context.Context) (Status, error) {
	out, err := u.control(ctx, "show", "-p", "LoadState", "-p", "ActiveState", "-p", "MainPID", "-p", "NRestarts", u.unit())
	if err != nil {
		return Status{}, fmt.Errorf("look at unit: %w", err)
	}
	values := map[string]string{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[name] = value
	}
	s := Status{Loaded: values["LoadState"] == "loaded"}
	s.PID, _ = strconv.Atoi(values["MainPID"])
	s.Running = values["ActiveState"] == "active" && s.PID > 0
	s.Wanted = s.Loaded && values["ActiveState"] != "inactive"
	s.Ended, _ = strconv.Atoi(values["NRestarts"])
	if values["ActiveState"] == "activating" && s.PID == 0 { // it ended, and is counted when it is started again
		s.Ended++
	}
	return s, nil
}
