package unit

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
)

// systemctl is a systemd with one service.
const systemctl = `
test -n "$XDG_RUNTIME_DIR" || exit 1
shift
case $1 in
restart) touch "$S/active" ;;
disable) rm -f "$S/active" ;;
show) if test -f "$S/dead"; then printf 'LoadState=loaded\nActiveState=activating\nMainPID=0\nNRestarts=2\n'; elif test -f "$S/active"; then printf 'LoadState=loaded\nActiveState=active\nMainPID=4711\nNRestarts=2\n'; else printf 'LoadState=loaded\nActiveState=inactive\nMainPID=0\n'; fi ;;
esac`

func TestSystemd(t *testing.T) {
	calls := fakes(t, map[string]string{"systemctl": systemctl, "loginctl": "exit 1", "sudo": sudo})
	home, _ := scripted(t, t.TempDir())
	s := Spec{Home: home, User: "ann", UID: 1000, UserHome: t.TempDir(), ServiceDir: "/nonexistent"}.AsUser()
	ctx := t.Context()
	d, err := Choose(ctx, "", s)
	if err != nil || d.Kind() != plan.UnitSystemd {
		t.Fatalf("chose %v, %v", d, err)
	}
	text, err := d.Text()
	if err == nil {
		err = d.Install(ctx, text)
	}
	if err == nil {
		err = d.Start(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Status(ctx); err != nil || got != (Status{Loaded: true, Wanted: true, Running: true, PID: 4711, Ended: 2}) {
		t.Errorf("status %+v, %v", got, err)
	}
	dead := filepath.Join(strings.Split(os.Getenv("PATH"), ":")[0], "dead")
	if err := os.WriteFile(dead, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Status(ctx); err != nil || got != (Status{Loaded: true, Wanted: true, Ended: 3}) {
		t.Errorf("waits to be started again: status %+v, %v", got, err)
	}
	if err := os.Remove(dead); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Remove(ctx); err != nil {
			t.Fatal(err)
		}
	}
	unit := s.name() + ".service"
	want := []string{
		"systemctl --user show-environment", "systemctl --user daemon-reload",
		"loginctl show-user ann -p Linger", "loginctl enable-linger ann", "sudo -n -- loginctl enable-linger ann",
		"systemctl --user reset-failed " + unit, "systemctl --user enable " + unit, "systemctl --user restart " + unit,
		"systemctl --user show -p LoadState -p ActiveState -p MainPID -p NRestarts " + unit, "systemctl --user show -p LoadState -p ActiveState -p MainPID -p NRestarts " + unit,
		"systemctl --user disable --now " + unit, "systemctl --user daemon-reload",
	}
	if got := calls(); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// loginctl has one user.
const loginctl = `
case $1 in
show-user) if test -f "$S/linger"; then echo Linger=yes; else echo Linger=no; fi ;;
enable-linger) touch "$S/linger" ;;
disable-linger) rm -f "$S/linger" ;;
esac`

// A user who lingered before goes on to, and nobody else does.
func TestLinger(t *testing.T) {
	fakes(t, map[string]string{"systemctl": systemctl, "loginctl": loginctl})
	fake, _, _ := strings.Cut(os.Getenv("PATH"), ":")
	mark := filepath.Join(fake, "linger")
	user := t.TempDir()
	for _, before := range []bool{false, true} {
		if before {
			if err := os.WriteFile(mark, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		home, _ := scripted(t, t.TempDir())
		d, err := Open(plan.UnitSystemd, Spec{Home: home, User: "ann", UID: 1000, UserHome: user}.AsUser())
		if err == nil {
			err = d.Install(t.Context(), []byte("[Unit]"))
		}
		for range 2 {
			if err == nil {
				err = d.Start(t.Context())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(mark); err != nil {
			t.Errorf("lingered before: %v; started: %v", before, err)
		}
		for range 2 {
			if err := d.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Stat(mark); (err == nil) != before {
			t.Errorf("lingered before: %v; removed: %v", before, err)
		}
	}
}
