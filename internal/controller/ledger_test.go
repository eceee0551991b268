package controller

import (
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestRateIsOfTheLastSecond(t *testing.T) {
	t.Parallel()
	var r rate
	at := time.Unix(1000, 0)
	if got := r.at(at); got != 0 {
		t.Errorf("rate of nothing is %v", got)
	}
	for i := range 20 { // 100 a second for two seconds
		r.add(at.Add(time.Duration(i)*100*time.Millisecond), 10)
	}
	tests := []struct {
		after time.Duration
		want  float64
	}{
		{2000 * time.Millisecond, 100},
		{2550 * time.Millisecond, 50},
		{2990 * time.Millisecond, 10},
		{3000 * time.Millisecond, 0},
		{time.Hour, 0},
	}
	for _, tt := range tests {
		if got := r.at(at.Add(tt.after)); got != tt.want {
			t.Errorf("after %s: %v tokens/s, want %v", tt.after, got, tt.want)
		}
	}
}

func TestLedgerAccounts(t *testing.T) {
	t.Parallel()
	var l ledger
	at := time.Unix(1000, 0)
	first := l.begin(at, &cluster.Request{ID: "1", Model: "m"})
	second := l.begin(at, &cluster.Request{ID: "2", Model: "m"})
	third := l.begin(at, &cluster.Request{ID: "3", Model: "m"})
	first.placed("a", true, time.Second)
	l.took(at, first, &cluster.Chunk{Progress: &cluster.Progress{Phase: cluster.PhasePrefill}})
	if first.hasBegun() {
		t.Error("progress is no token")
	}
	l.took(at, first, &cluster.Chunk{Text: "ab", Tokens: []int{1, 2}})
	requests, totals := l.report(at.Add(time.Second))
	if len(requests) != 3 || requests[0].ID != "1" || requests[2].ID != "3" {
		t.Fatalf("requests are %+v", requests)
	}
	if got := requests[0]; got.State != cluster.RequestStreaming || got.Tokens != 2 || got.Node != "a" || got.Attempt != 1 || got.FirstToken == nil {
		t.Errorf("first request is %+v", got)
	}
	if got := requests[1]; got.State != cluster.RequestQueued || got.Node != "" {
		t.Errorf("second request is %+v", got)
	}
	if totals.Requests != 3 || totals.Tokens != 2 || totals.TokensPerSecond != 2 {
		t.Errorf("totals are %+v", totals)
	}
	l.end(at, second, nil)
	l.end(at, first, cluster.Errorf(cluster.CodeNodeLost, "x"))
	l.end(at, third, cluster.Errorf(cluster.CodeCancelled, "x"))
	requests, totals = l.report(at)
	if len(requests) != 0 || totals.Finished != 1 || totals.Failed != 1 || totals.Cancelled != 1 {
		t.Errorf("at the end %d requests, totals %+v", len(requests), totals)
	}
}

// What is remembered of requests that ended is bounded: the oldest makes room.
func TestLedgerRemembersTheLast(t *testing.T) {
	t.Parallel()
	var l ledger
	at := time.Unix(1000, 0)
	id := func(i int) cluster.RequestID { return cluster.RequestID("r-" + strconv.Itoa(i) + "x") }
	for i := range mostEnded + 10 {
		l.end(at.Add(time.Duration(i)*time.Second), l.begin(at, &cluster.Request{ID: id(i), Model: "m"}), nil)
	}
	for i, want := range map[int]int{0: 0, 9: 0, 10: 1, mostEnded: 1, mostEnded + 9: 1, mostEnded + 10: 0} {
		gone, here := l.of(id(i))
		if len(gone) != want || len(here) != 0 {
			t.Errorf("of request %d it knows %+v and %+v, want %d", i, gone, here, want)
		}
	}
	if len(l.ended) != mostEnded {
		t.Errorf("it remembers %d", len(l.ended))
	}
	l.end(at, l.begin(at, &cluster.Request{ID: "a-1"}), nil)
	l.end(at, l.begin(at, &cluster.Request{ID: "a"}), cluster.Errorf(cluster.CodeTimeout, "late"))
	l.begin(at, &cluster.Request{ID: "a-2"})
	gone, here := l.of("a")
	if len(gone) != 2 || gone[0].ID != "a-1" || gone[1].code != cluster.CodeTimeout || gone[1].reason != "late" || len(here) != 1 || here[0].ID != "a-2" {
		t.Errorf("of all answers to a request it knows %+v and %+v", gone, here)
	}
	if gone, here = l.of("a-1"); len(gone) != 1 || len(here) != 0 {
		t.Errorf("of one answer it knows %+v and %+v", gone, here)
	}
}

// What is remembered of one request is bounded in bytes, whatever was asked and answered.
func TestLedgerRemembersNoLongTexts(t *testing.T) {
	t.Parallel()
	var l ledger
	at := time.Unix(1000, 0)
	long := strings.Repeat("é", 1<<19)
	l.end(at, l.begin(at, &cluster.Request{ID: "long", Model: "m"}), cluster.Errorf(cluster.CodeNoModel, "x%s", long).WithHint("%s", long))
	gone, _ := l.of("long")
	if len(gone) != 1 || gone[0].code != cluster.CodeNoModel {
		t.Fatalf("it remembers %+v", gone)
	}
	if got := gone[0].reason; len(got) > mostReasonBytes+len("…") || !strings.HasPrefix(got, "xé") || !utf8.ValidString(got) {
		t.Errorf("the reason has %d bytes: %q", len(got), got)
	}
}
