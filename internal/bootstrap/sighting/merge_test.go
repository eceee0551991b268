package sighting_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// Short names of the sources, for tables.
const (
	typed   = bootstrap.SourceCommandLine
	config  = bootstrap.SourceConfig
	listed  = bootstrap.SourceRoster
	heardOf = bootstrap.SourceBonjour
)

// told is a host that somebody tells of, and that nobody has tried to reach.
func told(source, host string, addresses ...string) *bootstrap.Host {
	return &bootstrap.Host{Target: bootstrap.Target{Host: host, Source: source, Addresses: addresses}}
}

// shown is a host that was reached, with the key and the number of the machine that it showed.
func shown(h *bootstrap.Host, state bootstrap.KeyState, key, hardware string) *bootstrap.Host {
	h.Key = bootstrap.HostKey{State: state, Fingerprint: key}
	h.Facts.Hardware = hardware
	if state == bootstrap.KeyKnown {
		h.Facts.OS = "darwin"
	}
	if state == bootstrap.KeyChanged {
		h.Findings = []plan.Finding{{Check: bootstrap.CheckHostKey, State: plan.FindingFail}}
	}
	return h
}

func known(h *bootstrap.Host, key, hardware string) *bootstrap.Host {
	return shown(h, bootstrap.KeyKnown, key, hardware)
}

func fresh(h *bootstrap.Host, key string) *bootstrap.Host {
	return shown(h, bootstrap.KeyNew, key, "")
}

// away is a host that did not answer.
func away(h *bootstrap.Host) *bootstrap.Host {
	h.Findings = []plan.Finding{{Check: bootstrap.CheckReach, State: plan.FindingFail}}
	return h
}

func node(h *bootstrap.Host, id cluster.NodeID) *bootstrap.Host {
	h.Node = id
	return h
}

func port(h *bootstrap.Host, n int) *bootstrap.Host {
	h.Port = n
	return h
}

// brief is a host as the tables write it: how it is reached, which node it is, where, and what keeps it away.
func brief(h *bootstrap.Host) string {
	text := h.Source + " " + h.Host
	if h.Node != "" {
		text += " =" + string(h.Node)
	}
	if len(h.Addresses) > 0 {
		text += " @" + strings.Join(h.Addresses, ",")
	}
	if f := h.Failure(); f != nil {
		text += " !" + f.Check
	}
	return text
}

func TestMergeMakesOneHostOfEachMachine(t *testing.T) {
	t.Parallel()
	mini := roster.Node{ID: "n-mini", Name: "mini", Host: "mini.local", HostKey: "M", Hardware: "hw-m"}
	for name, c := range map[string]struct {
		told  []*bootstrap.Host
		nodes []roster.Node
		want  []string
	}{
		"one host by two names": {
			told: []*bootstrap.Host{
				known(told(heardOf, "mini.local", "192.0.2.10"), "M", "hw-m"), known(told(typed, "192.0.2.10"), "M", "hw-m"),
			},
			want: []string{"command line 192.0.2.10 @192.0.2.10"},
		},
		"one host by two names, with a key that nobody agreed to yet": {
			told: []*bootstrap.Host{fresh(told(heardOf, "mini.local", "192.0.2.10"), "M"), fresh(told(config, "attic"), "M")},
			want: []string{"config attic @192.0.2.10"},
		},
		"what Bonjour sees is a node": {
			told:  []*bootstrap.Host{fresh(told(heardOf, "mini.local", "192.0.2.10"), "M")},
			nodes: []roster.Node{mini},
			want:  []string{"bonjour mini.local =n-mini @192.0.2.10"},
		},
		"two hosts with one name, behind one address": {
			told: []*bootstrap.Host{away(port(told(typed, "gw"), 2201)), away(port(told(typed, "gw"), 2202))},
			want: []string{"command line gw !ssh-reach", "command line gw !ssh-reach"},
		},
		"two hosts with one name, by their keys": {
			told: []*bootstrap.Host{known(told(typed, "mini"), "M", ""), known(told(config, "mini"), "X", "")},
			want: []string{"command line mini", "config mini"},
		},
		"two names of Bonjour are two Macs until both were looked at": {
			told: []*bootstrap.Host{fresh(told(heardOf, "a.local"), "K"), fresh(told(heardOf, "b.local"), "K")},
			want: []string{"bonjour a.local", "bonjour b.local"},
		},
		"two names of Bonjour are one Mac where its number says so": {
			told: []*bootstrap.Host{known(told(heardOf, "a.local"), "K", "hw"), known(told(heardOf, "b.local"), "K", "hw")},
			want: []string{"bonjour a.local"},
		},
		"a copy of a disk": {
			told: []*bootstrap.Host{
				node(known(told(listed, "mini.local"), "M", "hw-m"), "n-mini"), known(told(heardOf, "copy.local"), "M", "hw-copy"),
			},
			nodes: []roster.Node{mini},
			want:  []string{"roster mini.local =n-mini", "bonjour copy.local"},
		},
		"a copy of a disk in the place of its original": {
			told:  []*bootstrap.Host{node(known(told(listed, "mini.local"), "M", "hw-copy"), "n-mini")},
			nodes: []roster.Node{mini},
			want:  []string{"roster mini.local"},
		},
		"a forged x.local at the address of a node": {
			told: []*bootstrap.Host{
				node(known(told(listed, "mini.local", "192.0.2.10"), "M", "hw-m"), "n-mini"), fresh(told(heardOf, "x.local", "192.0.2.10"), "X"),
			},
			nodes: []roster.Node{mini},
			want:  []string{"roster mini.local =n-mini @192.0.2.10", "bonjour x.local @192.0.2.10"},
		},
		"a forger that took the address of a node is no node": {
			told: []*bootstrap.Host{
				node(shown(told(listed, "mini.local", "192.0.2.10"), bootstrap.KeyChanged, "X", ""), "n-mini"),
				fresh(told(heardOf, "x.local", "192.0.2.10"), "X"),
			},
			nodes: []roster.Node{mini},
			want:  []string{"roster mini.local =n-mini @192.0.2.10 !host-key", "bonjour x.local @192.0.2.10"},
		},
		"a forged mini.local is the host whose key changed, and nothing else": {
			told: []*bootstrap.Host{
				away(node(told(listed, "mini.local", "192.0.2.10"), "n-mini")),
				shown(told(heardOf, "mini.local", "192.0.2.66"), bootstrap.KeyChanged, "X", ""),
			},
			nodes: []roster.Node{mini},
			want:  []string{"roster mini.local =n-mini @192.0.2.10,192.0.2.66 !ssh-reach"},
		},
		"a node has another key under a name that somebody else had": {
			told: []*bootstrap.Host{
				shown(told(config, "192.0.2.10"), bootstrap.KeyChanged, "M", ""), node(known(told(listed, "mini.local"), "M", "hw-m"), "n-mini"),
			},
			nodes: []roster.Node{mini},
			want:  []string{"config 192.0.2.10 !host-key", "roster mini.local =n-mini"},
		},
		"a host that was renamed": {
			told: []*bootstrap.Host{
				node(known(told(listed, "mini.local", "192.0.2.10"), "M", "hw-m"), "n-mini"), fresh(told(heardOf, "studio.local", "192.0.2.10"), "M"),
			},
			nodes: []roster.Node{mini},
			want:  []string{"roster mini.local =n-mini @192.0.2.10"},
		},
		"a host that was renamed and moved": {
			told: []*bootstrap.Host{
				away(node(told(listed, "mini.local", "192.0.2.10"), "n-mini")), known(told(heardOf, "studio.local", "192.0.2.99"), "M", "hw-m"),
			},
			nodes: []roster.Node{mini},
			want:  []string{"roster studio.local =n-mini @192.0.2.99"},
		},
		"an address that moved to another host": {
			told: []*bootstrap.Host{
				node(shown(told(listed, "mini.local", "192.0.2.10"), bootstrap.KeyChanged, "S", ""), "n-mini"),
				known(told(heardOf, "mini.local", "192.0.2.99"), "M", "hw-m"), fresh(told(heardOf, "studio.local", "192.0.2.10"), "S"),
			},
			nodes: []roster.Node{mini},
			want:  []string{"roster mini.local =n-mini @192.0.2.99", "bonjour studio.local @192.0.2.10"},
		},
		"an address that moved to another host, before anybody tried": {
			told: []*bootstrap.Host{
				node(told(listed, "mini.local", "192.0.2.10"), "n-mini"),
				told(heardOf, "studio.local", "192.0.2.10"), told(heardOf, "mini.local", "192.0.2.99"),
			},
			nodes: []roster.Node{mini},
			want:  []string{"roster mini.local =n-mini @192.0.2.10,192.0.2.99", "bonjour studio.local @192.0.2.10"},
		},
		"a host that was renamed, before anybody tried": {
			told:  []*bootstrap.Host{node(told(listed, "mini.local", "192.0.2.10"), "n-mini"), told(heardOf, "studio.local", "192.0.2.10")},
			nodes: []roster.Node{mini},
			want:  []string{"roster mini.local =n-mini @192.0.2.10"},
		},
		"an address of one link is on every link": {
			told: []*bootstrap.Host{told(heardOf, "a.local", "fe80::1%en0"), told(config, "other", "fe80::1%en0"), told(config, "fe80::1%en0")},
			want: []string{"config fe80::1%en0", "config other @fe80::1%en0", "bonjour a.local @fe80::1%en0"},
		},
		"addresses of one link come last, with their zone": {
			told: []*bootstrap.Host{
				known(told(config, "mini.local", "fe80::1%en7"), "M", ""), known(told(heardOf, "mini.local", "2001:db8::1", "192.0.2.10", "fe80::1%en8"), "M", ""),
			},
			want: []string{"config mini.local @192.0.2.10,2001:db8::1,fe80::1%en7,fe80::1%en8"},
		},
		"two nodes stay two at one address": {
			told: []*bootstrap.Host{node(told(listed, "a", "192.0.2.7"), "n-a"), node(told(listed, "b", "192.0.2.7"), "n-b")},
			want: []string{"roster a =n-a @192.0.2.7", "roster b =n-b @192.0.2.7"},
		},
		"where it was reached, nobody is at the other address": {
			told: []*bootstrap.Host{away(told(config, "mini.local", "192.0.2.10")), known(told(heardOf, "mini.local", "192.0.2.99"), "M", "")},
			want: []string{"config mini.local @192.0.2.99"},
		},
		"a named host that does not answer is not who answers at its address": {
			told: []*bootstrap.Host{away(port(told(config, "192.0.2.10"), 2222)), known(told(heardOf, "mini.local", "192.0.2.10"), "M", "")},
			want: []string{"config 192.0.2.10 !ssh-reach", "bonjour mini.local @192.0.2.10"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			orders := [][]*bootstrap.Host{c.told, slices.Clone(c.told)}
			slices.Reverse(orders[1])
			for _, told := range orders {
				var got []string
				for _, h := range sighting.Merge(told, c.nodes) {
					got = append(got, brief(h))
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("got  %q\nwant %q", got, c.want)
				}
			}
		})
	}
}

// What doctor asks: everybody who knows of a Mac is heard, before anybody has tried to reach it.
func TestMergeKeepsWhatEachSourceKnows(t *testing.T) {
	t.Parallel()
	self := &bootstrap.Host{Target: bootstrap.Target{Name: "Zoe", Source: bootstrap.SourceLocal}, Self: true}
	heard := sighting.OfMac(bonjour.Mac{
		Name: "Fred’s Mac Studio", HostName: "Studio.local", Addrs: sighting.Addresses([]string{"10.0.0.7", "fe80::1%en0"}), RemoteLogin: true, Model: "Mac14,14",
	}, "")
	me := sighting.OfMac(bonjour.Mac{Name: "me", HostName: "me.local", Addrs: sighting.Addresses([]string{"10.0.0.1"}), Self: true}, "")
	inList := node(told(listed, "studio.local", "10.0.1.7"), "n1")
	inList.Name, inList.User = "studio", "anna"
	state := &bootstrap.Host{Target: bootstrap.Target{Name: "studio", Node: "n1", Source: bootstrap.SourceCluster}}
	got := sighting.Merge([]*bootstrap.Host{me, heard, told(config, "10.0.1.7"), state, inList, self}, nil)
	if len(got) != 2 {
		t.Fatalf("%d hosts, want this Mac and another: %+v", len(got), got)
	}
	if got[0].Name != "Zoe" || got[0].LocalName != "me.local" || !got[0].Self {
		t.Errorf("this Mac is %+v", got[0])
	}
	s := got[1]
	for _, source := range []string{bootstrap.SourceCluster, heardOf, config, listed} {
		if !s.From(source) {
			t.Errorf("%s is lost: %+v", source, s)
		}
	}
	if s.Name != "studio" || s.Host != "studio.local" || s.User != "anna" || s.LocalName != "Studio.local" || !s.RemoteLogin || s.Facts.Model != "Mac14,14" || len(s.Addresses) != 3 {
		t.Errorf("got %+v", s)
	}
	if s.From(bootstrap.SourceLocal) || inList.LocalName != "" || len(inList.Sources) != 0 {
		t.Errorf("a sighting was changed: %+v", inList)
	}
}
