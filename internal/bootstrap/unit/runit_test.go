package unit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
)

// scripted makes a home, below a folder, whose agent is a script that notes each start.
func scripted(t *testing.T, in string) (home, starts string) {
	t.Helper()
	home = filepath.Join(in, "a home's")
	dir := filepath.Join(home, "versions", "v1")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	starts = filepath.Join(home, "starts")
	text := "#!/bin/sh\necho \"$1 $MLXCTL_HOME $MLXCTL_CACHE $HOME\" >>\"$MLXCTL_HOME/starts\"\necho hello\nexec sleep 1000\n"
	if err := os.WriteFile(filepath.Join(dir, "mlxctl"), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("versions/v1", filepath.Join(home, "current")); err != nil {
		t.Fatal(err)
	}
	return home, starts
}

func runsvdir(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("runsvdir"); err != nil {
		t.Skip("SKIPPED: no runit here: apt-get install runit")
	}
	dir := t.TempDir()
	cmd := exec.Command("runsvdir", "-P", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGHUP) // it ends its services, too
		_ = cmd.Wait()
	})
	return dir
}

func count(t *testing.T, path string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Count(string(data), "\n")
}

func running(t *testing.T, d Driver) int {
	t.Helper()
	var s Status
	err := await(t.Context(), startWait, "it did not run", func() (bool, error) {
		var err error
		s, err = d.Status(t.Context())
		return s.Running && s.Wanted, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.PID
}

func TestRunit(t *testing.T) {
	t.Parallel()
	home, starts := scripted(t, t.TempDir())
	d, err := Choose(t.Context(), "", Spec{Home: home, ServiceDir: runsvdir(t)})
	if err != nil || d.Kind() != plan.UnitRunit {
		t.Fatalf("chose %v, %v", d, err)
	}
	t.Cleanup(func() { _ = d.Remove(context.Background()) })
	text, err := d.Text()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Install(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Installed(); err != nil || string(got) != string(text) {
		t.Errorf("installed %q, %v", got, err)
	}
	if s, err := d.Status(t.Context()); err != nil || s.Running || s.Wanted {
		t.Errorf("before it is started: %+v, %v", s, err)
	}
	if n := count(t, starts); n != 0 {
		t.Errorf("%d starts before the first", n)
	}
	last := 0
	for i := range 5 {
		if err := d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		pid := running(t, d)
		if pid == last {
			t.Errorf("start %d: the same process", i)
		}
		last = pid
		if i%2 == 1 {
			if err := d.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s, err := d.Status(t.Context()); err != nil || s.Running || s.Wanted {
				t.Errorf("stopped: %+v, %v", s, err)
			}
			if syscall.Kill(pid, 0) == nil {
				t.Errorf("pid %d is left", pid)
			}
		}
	}
	home2, _ := os.UserHomeDir()
	want := fmt.Sprintf("agent %s %s/cache %s\n", home, home, home2)
	data, err := os.ReadFile(starts)
	if err != nil || strings.ReplaceAll(string(data), want, "") != "" {
		t.Errorf("started as %q, want %q: %v", data, want, err)
	}
	_ = syscall.Kill(last, syscall.SIGKILL)
	err = await(t.Context(), startWait, "it did not come back", func() (bool, error) {
		s, err := d.Status(t.Context())
		return s.Running && s.PID != last, err
	})
	if err != nil {
		t.Error(err)
	}
	waitsForItsBinary(t, d, home, starts)
	for range 2 {
		if err := d.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := d.Status(t.Context()); err != nil || s != (Status{}) {
		t.Errorf("removed: %+v, %v", s, err)
	}
}

// Each end is counted, also of an agent that is gone before anybody looks, and a start begins anew.
func TestRunitCountsEnds(t *testing.T) {
	t.Parallel()
	home, _ := scripted(t, t.TempDir())
	if err := os.WriteFile(filepath.Join(home, "versions", "v1", "mlxctl"), []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := Open(plan.UnitRunit, Spec{Home: home, ServiceDir: runsvdir(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Remove(context.Background()) })
	text, err := d.Text()
	if err == nil {
		err = d.Install(t.Context(), text)
	}
	for range 2 {
		if err == nil {
			err = d.Start(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		last := 0
		err = await(t.Context(), startWait, "three ends were not seen", func() (bool, error) {
			s, err := d.Status(t.Context())
			if s.Ended > last+1 {
				t.Errorf("%d ends, and a moment ago %d", s.Ended, last)
			}
			last = s.Ended
			return last >= 3, err
		})
	}
	if err != nil {
		t.Error(err)
	}
}

// waitsForItsBinary takes the binary away that a unit runs, and gives it back.
func waitsForItsBinary(t *testing.T, d Driver, home, starts string) {
	t.Helper()
	link, before := filepath.Join(home, "current"), count(t, starts)
	if err := os.Rename(link, link+".gone"); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(running(t, d), syscall.SIGKILL)
	err := await(t.Context(), startWait, "it does not wait", func() (bool, error) {
		s, err := d.Status(t.Context())
		said, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.PID)) // none while it does not run
		return string(said) == "sleep\x005\x00", err
	})
	if err == nil {
		err = os.Rename(link+".gone", link)
	}
	if err == nil {
		err = await(t.Context(), startWait, "it did not find its binary", func() (bool, error) { return count(t, starts) == before+1, nil })
	}
	if err != nil {
		t.Error(err)
	}
}

// A machine's own runsvdir runs as root what is the user's.
func TestRunitAsAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: to run something as another user takes root")
	}
	user, err := os.MkdirTemp("/tmp", "runit-") //nolint:usetesting // the other user can get there, whatever TMPDIR is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(user) })
	home, starts := scripted(t, user)
	nobody := 65534
	err = filepath.WalkDir(user, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, nobody, nobody))
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(plan.UnitRunit, Spec{Home: home, User: "nobody", UID: nobody, UserHome: user, ServiceDir: runsvdir(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Remove(context.Background()) })
	text, err := d.Text()
	if err == nil {
		err = d.Install(t.Context(), text)
	}
	if err == nil {
		err = d.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	pid := running(t, d)
	if err := await(t.Context(), startWait, "no start", func() (bool, error) { return count(t, starts) > 0, nil }); err != nil {
		log, _ := os.ReadFile(filepath.Join(home, "log", "agent.log"))
		t.Fatalf("%v; its log: %s", err, log)
	}
	// Until then it was the shell that becomes it.
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != uint32(nobody) {
		t.Errorf("it runs as %+v, %v", info, err)
	}
	if n := count(t, starts); n != 1 {
		t.Errorf("started %d times", n)
	}
}

// A machine that has the package installed and runs no runsvdir has the folder all the same.
func TestAServiceFolderThatNobodyWatchesIsNoRunit(t *testing.T) {
	t.Parallel()
	d, err := Choose(t.Context(), "", Spec{Home: t.TempDir(), ServiceDir: t.TempDir()})
	if err != nil || d.Kind() == plan.UnitRunit {
		t.Errorf("chosen is %v, %v", d, err)
	}
	if _, err := Choose(t.Context(), plan.UnitRunit, Spec{Home: t.TempDir(), ServiceDir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "no runsvdir") {
		t.Errorf("asked for: %v", err)
	}
}
