package main

import (
	"strings"
	"testing"
	"time"
)

func TestUpIsReadFromItsEvents(t *testing.T) {
	f, err := readFormed([]byte(strings.Join([]string{
		`{"type":"plan","items":[]}`,
		`{"type":"step","host":"a","step":"python","state":"running","took_ms":100}`,
		`{"type":"step","host":"a","step":"python","state":"changed","took_ms":3000}`,
		`{"type":"step","host":"b","step":"python","state":"ok","took_ms":1000}`,
		`{"type":"step","host":"a","step":"copy","state":"changed","took_ms":500}`,
		`{"type":"step","host":"b","step":"unit","state":"changed","took_ms":1500}`,
		`{"type":"step","host":"b","step":"prove","state":"ok","took_ms":2000}`,
		`{"type":"host","name":"a","changed":true,"took_ms":9000}`,
		`{"type":"summary","serving":3,"changed":2,"took_ms":9000}`,
	}, "\n")), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if f.seconds != 10 || f.serving != 3 || f.changed != 2 || f.steps["python"] != 4 {
		t.Errorf("read %+v", f)
	}
	if want := (0.5 + 1.5) / (0.5 + 1.5 + 4 + 2); f.ours() != want {
		t.Errorf("ours is %v, want %v", f.ours(), want)
	}
	if _, err := readFormed([]byte("mlxctl: no\n"), 0); err == nil {
		t.Error("what is no JSON was read")
	}
}
