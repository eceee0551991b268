package cmd

import "testing"

func TestVersionsInOrder(t *testing.T) {
	t.Parallel()
	inOrder := []string{"v1.2.0-rc.1", "v1.2.0", "v1.2.0-3-g0123abc", "v1.2.0-11-g0123abc-dirty", "v1.10.0", "v9.9.0"}
	for i, a := range inOrder {
		for j, b := range inOrder {
			if isOlder(a, b) != (i < j) {
				t.Errorf("%s before %s: %v", a, b, i >= j)
			}
		}
		for _, b := range []string{"dev", "", "0123abc"} {
			if isOlder(a, b) || isOlder(b, a) {
				t.Errorf("%s and %q are in an order", a, b)
			}
		}
	}
}

func TestPlanSaysWhichVersionComes(t *testing.T) {
	t.Parallel()
	f := newFakeNet(t)
	f.mac("mini")
	f.mac("studio")
	wants(t, "up", f.run("", "up", "--yes"), 0)
	f.hosts["mini.local"].installed, f.hosts["studio.local"].installed = oldVersion9, "v9.9.0-cccccccccccc"
	wants(t, "dry run", f.run("", "up", "--dry-run"), 0,
		"upgrade: from "+oldVersion9+" to "+newVersion9, "downgrade: from v9.9.0-cccccccccccc to "+newVersion9)
	wants(t, "upgrade", f.run("", "upgrade", "studio", "--yes"), 0, "downgrade: from v9.9.0-cccccccccccc to "+newVersion9)
}
