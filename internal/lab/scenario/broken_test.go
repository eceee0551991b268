package scenario_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/lab"
)

// Of eight hosts seven are broken, each in another way. What can serve in spite of it does. Each is explained in a line of
// its own with what mends it, by up and by doctor, and once all are mended up completes what it left.
func TestUpExplainsWhatIsBroken(t *testing.T) {
	s := newSite(t, 8, func(_ int, s *lab.Spec) { s.DiskBytes = 64 << 30 }) // doctor has nothing to say of that
	ctx := t.Context()
	const noSSH, changedKey, fullDisk, noSudo, filtered, denied, clock, fine = 0, 1, 2, 3, 4, 5, 6, 7
	h := s.Hosts
	mends := map[int]lab.Mend{}
	broken := func(i int) func(lab.Mend, error) {
		return func(m lab.Mend, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			mends[i] = m
		}
	}
	// The operator has seen the host with the key that it will not have any more.
	if r := s.on(s.Operator, "ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new",
		"-o", "HostKeyAlias="+h[changedKey].Name+".local", h[changedKey].IP().String(), "true"); r.code != 0 {
		t.Fatal(r.err)
	}
	if err := h[changedKey].NewHostKey(ctx); err != nil {
		t.Fatal(err)
	}
	broken(noSSH)(h[noSSH].NoSSH(ctx))
	broken(fullDisk)(h[fullDisk].FullDisk(ctx, 1<<20))
	broken(noSudo)(h[noSudo].NoSudo(ctx))
	broken(filtered)(h[filtered].MulticastFiltered(ctx))
	broken(denied)(h[denied].LocalNetworkDenied(ctx))
	broken(clock)(h[clock].WrongClock(ctx, 48*time.Hour))
	// The others are known to Bonjour alone.
	config := "hosts:\n"
	for _, i := range []int{noSSH, changedKey, fullDisk, filtered, clock} {
		config += "  - " + h[i].Name + ".local\n"
	}
	if r := s.on(s.Operator, "sh", "-c", `mkdir -p ~/.config/mlxctl && printf %s "$1" >~/.config/mlxctl/config.yaml`, "sh", config); r.code != 0 {
		t.Fatal(r.err)
	}

	failing := map[int][]string{
		noSSH: {"has no ssh", "remote login"}, changedKey: {"host key of", "changed", "ssh-keygen -r"},
		fullDisk: {"free on", "free some there"}, filtered: {"multicast is filtered", "name it by its address"}, clock: {"clock of", "ahead of this one"},
	}
	serving := map[int][]string{
		noSudo: {"no sudo on", "an administrator of that machine"}, denied: {"the controller dials it", "local network"},
	}
	r := s.up(partial)
	t.Logf("up says\n%s\n%s", r.err, r.out)
	s.serve(h[fine], h[denied], h[noSudo])
	s.idle(h[noSSH], h[changedKey], h[fullDisk], h[filtered], h[clock])
	for _, hosts := range []map[int][]string{failing, serving} {
		for i, words := range hosts {
			s.explained(r.out, h[i], words...)
		}
	}
	s.told(s.must(partial, "up", "--yes", "-o", "json"), 5, map[string]string{h[noSudo].Name: "sudo", h[denied].Name: "link"})

	d := s.must(failed, "doctor")
	for i, words := range failing {
		s.diagnosed(d.out, h[i], "fail", words...)
	}
	for i, words := range serving {
		s.diagnosed(d.out, h[i], "warn", words...)
	}

	for i, mend := range mends {
		if err := mend(ctx); err != nil {
			t.Errorf("mend %s: %v", h[i].Name, err)
		}
	}
	if r := s.on(s.Operator, "ssh-keygen", "-R", h[changedKey].Name+".local"); r.code != 0 {
		t.Fatal(r.err)
	}
	s.until("up completes", func() bool { return s.mlxctl(up()...).code == done })
	s.serve(h...)
	if n := len(s.nodes()); n != len(h)+1 {
		t.Errorf("%d nodes, of %d hosts and the operator's", n, len(h))
	}
}

// explained checks that exactly one line of what up says in the end is about a host, and that it says what mends it.
func (s *site) explained(out string, h *lab.Host, words ...string) {
	s.t.Helper()
	var lines []string
	for line := range strings.Lines(out) {
		if names(line, h) {
			lines = append(lines, line)
		}
	}
	if len(lines) != 1 || !strings.Contains(lines[0], "; mend: ") || !all(lines[0], words) {
		s.t.Errorf("up says of %s (%s) %q, want one line with each of %q\n%s", h.Name, h.Label, lines, words, out)
	}
}

// diagnosed checks that doctor has exactly one finding of that state, with what mends it, about a host.
func (s *site) diagnosed(out string, h *lab.Host, state string, words ...string) {
	s.t.Helper()
	lines := strings.Split(out, "\n")
	var found []string
	for i, line := range lines[:len(lines)-1] {
		if rest, ok := strings.CutPrefix(line, state+"  "); ok && names(rest, h) {
			found = append(found, line+lines[i+1])
		}
	}
	if len(found) != 1 || !strings.Contains(found[0], "fix: ") || !all(found[0], words) {
		s.t.Errorf("doctor says of %s (%s) %q, want one %s with each of %q\n%s", h.Name, h.Label, found, state, words, out)
	}
}

// told checks the summary of `up -o json`: so many failed, nothing changed, and these hosts serve with these warnings.
func (s *site) told(r result, failures int, warnings map[string]string) {
	s.t.Helper()
	lines := strings.Split(r.out, "\n")
	var summary struct {
		Type            string
		Failed, Changed int
		Hosts           []struct {
			Name     string
			Serves   bool
			Warnings []struct{ Check, Message, Fix string }
		}
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &summary); err != nil || summary.Type != "summary" {
		s.t.Fatalf("the last line is %q: %v", lines[len(lines)-1], err)
	}
	if summary.Failed != failures || summary.Changed != 0 {
		s.t.Errorf("%d failed, %d changed, want %d and 0:\n%s", summary.Failed, summary.Changed, failures, r.out)
	}
	seen := 0
	for _, h := range summary.Hosts {
		check, ok := warnings[h.Name]
		if !ok {
			continue
		}
		seen++
		if !h.Serves || len(h.Warnings) != 1 || h.Warnings[0].Check != check || h.Warnings[0].Message == "" || h.Warnings[0].Fix == "" {
			s.t.Errorf("%+v, want a warning of %s", h, check)
		}
	}
	if seen != len(warnings) {
		s.t.Errorf("%d of %d hosts with warnings are in\n%s", seen, len(warnings), r.out)
	}
}

// names says that a line begins with what a host is called.
func names(line string, h *lab.Host) bool {
	for _, name := range []string{h.Name, h.Name + ".local", h.Label} {
		if rest, ok := strings.CutPrefix(line, name); ok && (strings.HasPrefix(rest, ":") || strings.HasPrefix(rest, " ")) {
			return true
		}
	}
	return false
}

func all(text string, words []string) bool {
	text = strings.ToLower(text)
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}
