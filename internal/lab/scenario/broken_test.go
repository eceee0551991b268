package scenario_test

import (
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/lab"
)

// Of eight hosts seven are broken, each in another way. The whole one serves, each of the others is explained in a line
// of its own, and once all are mended `up` completes what it left.
func TestUpExplainsWhatIsBroken(t *testing.T) {
	s := newSite(t, 8, nil)
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

	r := s.up(partial)
	// Who cannot dial is dialled. Who may not use sudo gets a service of the user's own.
	s.serve(h[fine], h[denied])
	s.idle(h[noSSH], h[changedKey], h[fullDisk], h[filtered], h[clock])
	explains(t, r, h[noSSH], "remote login")
	explains(t, r, h[changedKey], "key")
	explains(t, r, h[fullDisk], "disk", "space", "free")
	explains(t, r, h[noSudo], "sudo")
	explains(t, r, h[denied], "local network", "reverse", "its controller to dial it")
	explains(t, r, h[clock], "clock")
	d := s.mlxctl("doctor")
	for _, i := range []int{noSSH, changedKey, fullDisk, clock} {
		explains(t, d, h[i], "remote login", "key", "disk", "space", "free", "clock")
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
}
