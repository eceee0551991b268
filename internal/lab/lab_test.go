package lab_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/lab"
)

func exe(t *testing.T, h *lab.Host, user string, argv ...string) string {
	t.Helper()
	out, err := h.Exec(t.Context(), user, argv...)
	if err != nil {
		t.Fatalf("%s: %s: %v", h.Name, strings.Join(argv, " "), err)
	}
	return strings.TrimSpace(string(out))
}

func TestHostsAreMachinesOfTheirOwn(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Options{Hosts: 3, Each: func(i int, s *lab.Spec) {
		if i == 2 {
			s.Name, s.Label, s.User, s.NoRemoteLogin = "quiet", "Quiet \x27Mac\x27", "anna", true
		}
	}})
	seen := map[string]string{}
	for _, h := range l.All() {
		for _, file := range []string{"/etc/machine-id", "/proc/sys/kernel/random/boot_id", "/etc/ssh/ssh_host_ed25519_key.pub", "/etc/hostname"} {
			text := exe(t, h, h.User, "cat", file)
			here, _ := os.ReadFile(file)
			if other := seen[text]; other != "" || text == "" || text == strings.TrimSpace(string(here)) {
				t.Errorf("%s of %s is that of %q, or of this machine", file, h.Name, other)
			}
			seen[text] = h.Name
		}
		if name := exe(t, h, h.User, "hostname"); name != h.Name {
			t.Errorf("%s calls itself %s", h.Name, name)
		}
		if n := len(strings.Split(exe(t, h, "root", "ls", "/home"), "\n")); n != 1 {
			t.Errorf("%s has %d home folders", h.Name, n)
		}
		if got, _ := dial(t, h, "192.0.2.1", 80, time.Second); got != "ENETUNREACH" {
			t.Errorf("%s reaches out: %s", h.Name, got)
		}
		if _, err := h.Exec(t.Context(), "root", "touch", "/usr/bin/touched"); err == nil {
			t.Errorf("%s can write to this machine's programs", h.Name)
		}
		if home := exe(t, h, h.User, "sh", "-c", "echo $HOME $USER; pwd"); home != h.Home()+" "+h.User+"\n"+h.Home() {
			t.Errorf("%s: %q", h.Name, home)
		}
	}
	if err := l.Hosts[0].WriteFile(t.Context(), "a folder/file", []byte("text\n")); err != nil {
		t.Fatal(err)
	}
	if got, err := l.Hosts[0].ReadFile(t.Context(), "a folder/file"); err != nil || string(got) != "text\n" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := l.Hosts[1].ReadFile(t.Context(), "a folder/file"); err == nil {
		t.Error("one home is another's")
	}
	for _, h := range l.Hosts[:2] {
		out, err := l.SSH(t.Context(), h, "hostname; id -un; sudo -n id -un")
		if want := h.Name + "\nfred\nroot\n"; err != nil || string(out) != want {
			t.Errorf("ssh to %s: %q, %v", h.Name, out, err)
		}
	}
	if got, _ := dial(t, l.Operator, l.Hosts[2].IP().String(), 22, 20*time.Second); got != "ECONNREFUSED" {
		t.Errorf("ssh to a host without: %s", got)
	}
	ssh := []string{l.Operator.Label, l.Hosts[0].Label, l.Hosts[1].Label}
	slices.Sort(ssh)
	eventually(t, "adverts of all with Remote Login", func() bool {
		return slices.Equal(browse(t, l.Operator, "_ssh._tcp", time.Second), ssh)
	})
	eventually(t, "adverts of all", func() bool { return len(browse(t, l.Hosts[0], "_airplay._tcp", time.Second)) == 4 })
}

// An environment that was made on this machine is there on every host, at its own path, and only to be read; but a blank
// one can make its own, when it is given the packages.
func TestPreparedPython(t *testing.T) {
	t.Parallel()
	base := ""
	for _, p := range []string{"python3.13", "python3.12", "python3.11", "python3"} {
		if out, err := exec.CommandContext(t.Context(), p, "-c", "import sys; print(sys.executable)").Output(); err == nil {
			base = strings.TrimSpace(string(out))
			break
		}
	}
	cache := t.TempDir()
	dir := filepath.Join(cache, "python", "0123456789ab")
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(cache), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(base, filepath.Join(dir, "bin", "python")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mlxctl.json"), []byte(`{"lock":"l","base":"`+base+`"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	l := lab.New(t, lab.Options{Hosts: 2, Cache: cache, Each: func(i int, s *lab.Spec) { s.Blank = i == 1 }})
	h, blank := l.Hosts[0], l.Hosts[1]
	if got := exe(t, h, h.User, ".mlxctl/cache/python/0123456789ab/bin/python", "-c", "print(6 * 7)"); got != "42" {
		t.Errorf("it says %q", got)
	}
	if _, err := h.Exec(t.Context(), "root", "touch", h.Home()+"/.mlxctl/cache/python/0123456789ab/x"); err == nil {
		t.Error("a host can write into the environment of all")
	}
	exe(t, h, h.User, "rm", "-r", ".mlxctl")
	exe(t, l.Operator, "fred", "test", "-e", ".mlxctl/cache/python/0123456789ab/mlxctl.json")

	exe(t, blank, "root", "test", "!", "-e", "/opt/python")
	if err := blank.PutFolder(t.Context(), cache, "given/to"); err != nil {
		t.Fatal(err)
	}
	if got := exe(t, blank, "root", "stat", "-c", "%U", blank.Home()+"/given/to/python/0123456789ab/mlxctl.json"); got != blank.User {
		t.Errorf("what was put there is %s's", got)
	}
	if err := blank.PutFolder(t.Context(), cache+"/none", "given"); err == nil {
		t.Error("a folder that is not there was put")
	}
	exe(t, blank, blank.User, "python3", "-m", "venv", "made")
	if got := exe(t, blank, blank.User, "made/bin/python", "-m", "pip", "--version"); !strings.HasPrefix(got, "pip ") {
		t.Errorf("pip there says %q", got)
	}
}

func TestServicesComeBackAfterReboot(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Options{Hosts: 1})
	h := l.Hosts[0]
	exe(t, h, h.User, "sudo", "sh", "-c", `mkdir /etc/service/ticker && printf '#!/bin/sh\nexec sleep 86399\n' >/etc/service/ticker/run && chmod 755 /etc/service/ticker/run`)
	running := func() bool { return len(h.PIDs("sleep", "86399")) == 1 }
	eventually(t, "service runs", running)
	if n, err := h.Kill("sleep", "86399"); n != 1 || err != nil {
		t.Errorf("killed %d, %v", n, err)
	}
	eventually(t, "service runs again", running)
	exe(t, h, h.User, "sh", "-c", "echo kept >file; echo lost >/tmp/file")
	boot, first := exe(t, h, h.User, "cat", "/proc/sys/kernel/random/boot_id"), h.PID()
	id := exe(t, h, h.User, "cat", "/etc/machine-id")
	if err := h.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h.PID() == first || exe(t, h, h.User, "cat", "/proc/sys/kernel/random/boot_id") == boot {
		t.Error("no other boot")
	}
	if got := exe(t, h, h.User, "cat", "/etc/machine-id", "file"); got != id+"\nkept" {
		t.Errorf("after the boot it has %q", got)
	}
	if _, err := h.ReadFile(t.Context(), "/tmp/file"); err == nil {
		t.Error("/tmp outlives a boot")
	}
	eventually(t, "service runs after the boot", running)
	if out, err := l.SSH(t.Context(), h, "cat file"); err != nil || string(out) != "kept\n" {
		t.Errorf("ssh after the boot: %q, %v", out, err)
	}
}

// A process that lost its parent is reaped at once: who waits for its end must not see a corpse.
func TestOrphansAreReaped(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Options{Hosts: 1})
	h := l.Hosts[0]
	pid := exe(t, h, h.User, "sh", "-c", "sleep 0.5 >/dev/null 2>&1 & echo $!")
	eventually(t, "it is gone", func() bool {
		_, err := h.Exec(t.Context(), "root", "test", "-e", "/proc/"+pid)
		return err != nil
	})
}

func TestCommandEndsWithItsContext(t *testing.T) {
	t.Parallel()
	l := lab.New(t, lab.Options{Hosts: 1})
	h := l.Hosts[0]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := h.Command(ctx, h.User, "sh", "-c", "sleep 86398 & sleep 86398")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both run", func() bool { return len(h.PIDs("86398")) == 3 })
	cancel()
	if err := cmd.Wait(); err == nil {
		t.Error("it ended well")
	}
	eventually(t, "none runs", func() bool { return len(h.PIDs("86398")) == 0 })
}
