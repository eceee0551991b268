package enrol_test

import (
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/enrol"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// A Mac that lost its identity joins again: the entry that it had is replaced, as nobody is it any more.
func TestAMacThatJoinsAgainReplacesItsEntry(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for id, hardware := range map[string]string{
		"down-same": "mac", "down-other": "other", "down-unknown": "", "up-same": "mac",
	} {
		n := newNode(t, id)
		if err := s.roster.Put(roster.Node{ID: n.ID, Name: id, Key: n.Key, Hardware: hardware, By: "token"}); err != nil {
			t.Fatal(err)
		}
	}
	n := newNode(t, "again")
	n.Hardware = "mac"
	if _, err := enrol.Join(t.Context(), s.token(t, time.Minute, 0), n); err != nil {
		t.Fatal(err)
	}
	if got, want := s.admitted(t), "down-other down-unknown again up-same"; got != want {
		t.Errorf("the list has %s, want %s", got, want)
	}
	if got, err := s.roster.Find("again"); err != nil || got.Hardware != "mac" {
		t.Errorf("%+v, %v", got, err)
	}
	nameless := newNode(t, "nameless")
	if _, err := enrol.Join(t.Context(), s.token(t, time.Minute, 0), nameless); err != nil {
		t.Fatal(err)
	}
	if got, want := s.admitted(t), "down-other down-unknown again nameless up-same"; got != want {
		t.Errorf("the list has %s, want %s", got, want)
	}
}
