package bonjour_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"

	"github.com/mlxctl/mlxctl/internal/bonjour"
)

var lan = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64")}

// host is a host that answers about its services.
type host struct {
	name  string // "fred.local."
	addrs []string
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: 120}
}

// answer is the packet of a responder about one service; instance is in DNS's presentation form.
func (h host) answer(tb testing.TB, instance, service string, text ...string) []byte {
	tb.Helper()
	owner := instance + "." + service + ".local."
	m := dns.Msg{MsgHdr: dns.MsgHdr{Response: true}}
	m.Answer = []dns.RR{&dns.PTR{Hdr: header(service+".local.", dns.TypePTR), Ptr: owner}}
	m.Extra = []dns.RR{
		&dns.SRV{Hdr: header(owner, dns.TypeSRV), Port: 22, Target: h.name},
		&dns.TXT{Hdr: header(owner, dns.TypeTXT), Txt: append([]string{}, text...)},
	}
	for _, a := range h.addrs {
		ip := netip.MustParseAddr(a)
		if ip.Is4() {
			m.Extra = append(m.Extra, &dns.A{Hdr: header(h.name, dns.TypeA), A: net.IP(ip.AsSlice())})
		} else {
			m.Extra = append(m.Extra, &dns.AAAA{Hdr: header(h.name, dns.TypeAAAA), AAAA: net.IP(ip.AsSlice())})
		}
	}
	return pack(tb, &m)
}

func pack(tb testing.TB, m *dns.Msg) []byte {
	tb.Helper()
	packet, err := m.Pack()
	if err != nil {
		tb.Fatal(err)
	}
	return packet
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func compare(tb testing.TB, got, want []bonjour.Mac) {
	tb.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
		tb.Errorf("(-want +got)\n%s", diff)
	}
}

func TestMacs(t *testing.T) {
	t.Parallel()
	fred := host{"Freds-MacBook-Pro.local.", []string{"10.0.0.7"}}
	tests := []struct {
		name    string
		packets [][]byte
		want    []bonjour.Mac
	}{
		{
			"a name with apostrophe and spaces",
			[][]byte{fred.answer(t, `Fred\226\128\153s\ MacBook\ Pro`, "_ssh._tcp")},
			[]bonjour.Mac{{
				Name: "Fred’s MacBook Pro", HostName: "freds-macbook-pro.local", Addrs: addrs("10.0.0.7"), Port: 22, RemoteLogin: true,
				Seen: []string{"_ssh._tcp"},
			}},
		},
		{
			"one Mac seen four ways, its addresses best first",
			[][]byte{
				host{fred.name, []string{"fe80::7", "169.254.7.7"}}.answer(t, "Kitchen", "_airplay._tcp", "Model=Mac16,10"),
				host{strings.ToUpper(fred.name), []string{"10.0.0.9"}}.answer(t, "Fred", "_sftp-ssh._tcp"),
				host{fred.name, []string{"10.0.0.7", "fd00::7"}}.answer(t, "Fred", "_ssh._tcp"),
				fred.answer(t, "Fred", "_companion-link._tcp", "rpMd=Mac16,11"),
			},
			[]bonjour.Mac{{
				Name: "Fred", HostName: "freds-macbook-pro.local", Port: 22, RemoteLogin: true, Model: "Mac16,11",
				Addrs: addrs("10.0.0.7", "10.0.0.9", "fd00::7", "169.254.7.7", "fe80::7%en0"),
				Seen:  []string{"_ssh._tcp", "_sftp-ssh._tcp", "_companion-link._tcp", "_airplay._tcp"},
			}},
		},
		{
			"Remote Login off",
			[][]byte{fred.answer(t, "Fred", "_airplay._tcp", "model=MacBookPro18,1")},
			[]bonjour.Mac{{
				Name: "Fred", HostName: "freds-macbook-pro.local", Addrs: addrs("10.0.0.7"), Model: "MacBookPro18,1",
				Seen: []string{"_airplay._tcp"},
			}},
		},
		{
			"a Linux host",
			[][]byte{fred.answer(t, `node\ [00:11:22:33:44:55]`, "_workstation._tcp")},
			[]bonjour.Mac{{
				Name: "node", HostName: "freds-macbook-pro.local", Addrs: addrs("10.0.0.7"), Seen: []string{"_workstation._tcp"},
			}},
		},
		{
			"a television, a telephone and a file server are none",
			[][]byte{
				host{"tv.local.", []string{"10.0.0.8"}}.answer(t, "TV", "_airplay._tcp", "model=AppleTV14,1"),
				host{"phone.local.", []string{"10.0.0.9"}}.answer(t, "Phone", "_companion-link._tcp", "rpBA=1"),
				host{"nas.local.", []string{"10.0.0.10"}}.answer(t, "NAS", "_smb._tcp"),
			},
			nil,
		},
		{
			"services that were not asked for",
			[][]byte{fred.answer(t, "Fred", "_http._tcp"), fred.answer(t, "Fred", "_evil_ssh._tcp")},
			nil,
		},
		{
			"addresses that name this host or many",
			[][]byte{host{fred.name, []string{"127.0.0.1", "0.0.0.0", "224.0.0.251", "255.255.255.255", "::1", "ff02::1", "::ffff:127.0.0.1"}}.answer(t, "Fred", "_ssh._tcp")},
			nil,
		},
		{
			"addresses of no link of this machine",
			[][]byte{
				host{fred.name, []string{"192.0.2.80", "10.0.1.7", "2001:db8::7", "10.0.0.7"}}.answer(t, "Fred", "_ssh._tcp"),
				host{"x.local.", []string{"192.0.2.80", "2001:db8::80"}}.answer(t, "x", "_ssh._tcp"),
			},
			[]bonjour.Mac{{
				Name: "Fred", HostName: "freds-macbook-pro.local", Addrs: addrs("10.0.0.7"), Port: 22, RemoteLogin: true,
				Seen: []string{"_ssh._tcp"},
			}},
		},
		{
			"hosts of other domains",
			[][]byte{
				host{"prod-db.example.com.", []string{"10.0.0.7"}}.answer(t, "Fred", "_ssh._tcp"),
				host{"prod-db.", []string{"10.0.0.7"}}.answer(t, "Prod", "_ssh._tcp"),
				host{"prod.notlocal.", []string{"10.0.0.7"}}.answer(t, "Near", "_ssh._tcp"),
				host{"10.0.0.7.", []string{"10.0.0.7"}}.answer(t, "Address", "_ssh._tcp"),
			},
			nil,
		},
		{
			"the parts of an answer in packets of their own",
			parts(t),
			[]bonjour.Mac{{
				Name: "Fred", HostName: "fred.local", Addrs: addrs("10.0.0.7"), Port: 2222, RemoteLogin: true, Seen: []string{"_ssh._tcp"},
			}},
		},
		{
			"two hosts that claim one name are both listed",
			[][]byte{
				fred.answer(t, "Fred", "_ssh._tcp"),
				host{"thief.local.", []string{"10.0.0.66"}}.answer(t, "Fred", "_ssh._tcp"),
			},
			[]bonjour.Mac{
				{Name: "Fred", HostName: "freds-macbook-pro.local", Addrs: addrs("10.0.0.7"), Port: 22, RemoteLogin: true, Seen: []string{"_ssh._tcp"}},
				{Name: "Fred", HostName: "thief.local", Addrs: addrs("10.0.0.66"), Port: 22, RemoteLogin: true, Seen: []string{"_ssh._tcp"}},
			},
		},
		{
			"this machine",
			[][]byte{host{"me.local.", []string{"10.0.0.1"}}.answer(t, "Me", "_ssh._tcp")},
			[]bonjour.Mac{{
				Name: "Me", HostName: "me.local", Addrs: addrs("10.0.0.1"), Port: 22, RemoteLogin: true, Seen: []string{"_ssh._tcp"}, Self: true,
			}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			compare(t, bonjour.Heard(lan, "en0", test.packets...), test.want)
		})
	}
}

// parts is one Mac in four packets, the address first for nobody.
func parts(tb testing.TB) [][]byte {
	tb.Helper()
	owner := "Fred._ssh._tcp.local."
	a := &dns.A{Hdr: header("fred.local.", dns.TypeA), A: net.IPv4(10, 0, 0, 7)}
	var out [][]byte
	for _, rr := range []dns.RR{
		a,
		&dns.PTR{Hdr: header("_ssh._tcp.local.", dns.TypePTR), Ptr: owner},
		&dns.SRV{Hdr: header(owner, dns.TypeSRV), Port: 2222, Target: "fred.local."},
		a,
	} {
		out = append(out, pack(tb, &dns.Msg{MsgHdr: dns.MsgHdr{Response: true}, Answer: []dns.RR{rr}}))
	}
	return out
}

func TestGoodbyesAndQuestionsAreNoAnswers(t *testing.T) {
	t.Parallel()
	var m dns.Msg
	if err := m.Unpack((host{"fred.local.", []string{"10.0.0.7"}}).answer(t, "Fred", "_ssh._tcp")); err != nil {
		t.Fatal(err)
	}
	m.Response = false
	question := pack(t, &m)
	m.Response = true
	for _, rr := range append(m.Answer, m.Extra...) {
		rr.Header().Ttl = 0
	}
	for name, packet := range map[string][]byte{"question": question, "goodbye": pack(t, &m)} {
		if got := bonjour.Heard(lan, "", packet); len(got) != 0 {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func TestForgedNamesAreHarmless(t *testing.T) {
	t.Parallel()
	for instance, want := range map[string]string{
		`\027[31mFred\027[0m`:                           "Fred",
		`\027]0\;owned\007Fred`:                         "Fred",
		`\027]8\;\;http://evil\027\\Fred`:               "Fred",
		`Fred\010rm\013x\000`:                           "Fred rm x",
		`Fred\194\155`:                                  "Fred", // C1
		`\226\128\174derF`:                              "derF", // right-to-left override
		`\226\128\139Fred\239\187\191`:                  "Fred", // zero width
		`Fre\255d`:                                      "Fre\uFFFDd",
		`Fre\204\129d`:                                  "Fr\u00e9d", // composed
		`\027[2J`:                                       "host",      // nothing is left: the host's name
		strings.Repeat(`\226\130\172`, 21):              strings.Repeat("€", 21),
		`\226\128\168Fred\226\128\169`:                  "Fred",
		`\027\027[31mFred`:                              "Fred",
		`-oProxyCommand=x`:                              "-oProxyCommand=x", // text, never an argument
		strings.Repeat("x", 63):                         strings.Repeat("x", 63),
		strings.Repeat(`\255`, 63):                      "\uFFFD",
		`Anna\226\128\153s\ \240\159\146\187\ \(work\)`: "Anna’s 💻 (work)",
	} {
		got := bonjour.Heard(lan, "", host{"host.local.", []string{"10.0.0.7"}}.answer(t, instance, "_ssh._tcp"))
		if len(got) != 1 || got[0].Name != want {
			t.Errorf("%s: got %+v, want %q", instance, got, want)
		}
	}
}

func TestForgedHostsAreNoArguments(t *testing.T) {
	t.Parallel()
	for _, name := range []string{`-oProxyCommand=x.local.`, `a\032b.local.`, `\027[31m.local.`, `a\;b.local.`, `local.`, `.`, `$(x).local.`} {
		got := bonjour.Heard(lan, "", host{name, []string{"10.0.0.7"}}.answer(t, "Fred", "_ssh._tcp"))
		for _, m := range got {
			if m.HostName != "" {
				t.Errorf("%s: got host name %q", name, m.HostName)
			}
		}
	}
}

func TestTextIsBoundedAndClean(t *testing.T) {
	t.Parallel()
	filler := make([]string, 10)
	for i := range filler {
		filler[i] = fmt.Sprintf("k%d=%s", i, strings.Repeat("x", 200))
	}
	fred := host{"fred.local.", []string{"10.0.0.7"}}
	for name, test := range map[string]struct {
		text []string
		want string
	}{
		"beyond the limit": {append(filler, "model=Mac16,10"), ""},
		"first counts":     {[]string{"model=Mac16,10", "model=Mac16,11"}, "Mac16,10"},
		"escape sequence":  {[]string{"model=Mac\x1b[31m16,10"}, "Mac16,10"},
		"no value":         {[]string{"model"}, ""},
		"no key":           {[]string{"=Mac16,10", ""}, ""},
	} {
		got := bonjour.Heard(lan, "", fred.answer(t, "Fred", "_airplay._tcp", test.text...), fred.answer(t, "Fred", "_ssh._tcp"))
		if len(got) != 1 || got[0].Model != test.want {
			t.Errorf("%s: got %+v, want model %q", name, got, test.want)
		}
	}
}

func TestFloodIsBounded(t *testing.T) {
	t.Parallel()
	var packets [][]byte
	for i := range bonjour.MostEntries + 100 {
		h := host{fmt.Sprintf("h%d.local.", i), []string{"10.0.0.7"}}
		packets = append(packets, h.answer(t, fmt.Sprintf("h%d", i), "_ssh._tcp"))
	}
	if got := len(bonjour.Heard(lan, "", packets...)); got != 1 {
		t.Errorf("got %d hosts at one address, want 1", got)
	}
	many := host{name: "many.local."}
	for i := range bonjour.MostAddresses + 10 {
		many.addrs = append(many.addrs, fmt.Sprintf("10.0.0.%d", i+10))
	}
	got := bonjour.Heard(lan, "", many.answer(t, "many", "_ssh._tcp"))
	if len(got) != 1 || len(got[0].Addrs) != bonjour.MostAddresses {
		t.Errorf("got %+v, want one host with %d addresses", got, bonjour.MostAddresses)
	}
	big := append(many.answer(t, "many", "_ssh._tcp"), make([]byte, bonjour.PacketBytes)...)
	if got := bonjour.Heard(lan, "", big); len(got) != 0 {
		t.Errorf("a packet of %d bytes was read: %+v", len(big), got)
	}
}

func FuzzDecode(f *testing.F) {
	fred := host{"fred.local.", []string{"10.0.0.7", "fe80::7"}}
	f.Add(fred.answer(f, `Fred\226\128\153s\ MacBook\ Pro`, "_ssh._tcp"))
	f.Add(fred.answer(f, `\027[31mFred`, "_airplay._tcp", "model=Mac16,10"))
	f.Add(fred.answer(f, `node\ [00:11:22:33:44:55]`, "_workstation._tcp"))
	f.Fuzz(func(t *testing.T, packet []byte) {
		for _, m := range bonjour.Heard(lan, "en0", packet) {
			for _, s := range append(m.Seen, m.Name, m.Model, m.HostName) {
				if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }) {
					t.Errorf("%q is not safe to show", s)
				}
			}
			if m.Name == "" || len(m.Name) > bonjour.NameBytes || len(m.Model) > bonjour.NameBytes {
				t.Errorf("name %q, model %q", m.Name, m.Model)
			}
			for _, a := range m.Addrs {
				if a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || (a.IsLinkLocalUnicast() && a.Is6() && a.Zone() == "") {
					t.Errorf("address %s", a)
				}
			}
			if len(m.Addrs) == 0 || len(m.Addrs) > bonjour.MostAddresses {
				t.Errorf("%d addresses", len(m.Addrs))
			}
		}
	})
}
