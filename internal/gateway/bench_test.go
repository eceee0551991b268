package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/gateway"
)

// BenchmarkStream measures a whole stream over loopback, and so what one token costs.
func BenchmarkStream(b *testing.B) {
	const tokens = 256
	list := make([]string, tokens)
	for i := range list {
		list[i] = " token"
	}
	s := start(b, gateway.Options{Backend: &backend{answer: words(list...)}})
	b.ReportAllocs()
	for b.Loop() {
		if err := s.once(askMore, "data: [DONE]\n\n"); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/tokens, "ns/token")
}

// BenchmarkOneToken measures a request with one token over loopback, against the same without a gateway.
func BenchmarkOneToken(b *testing.B) {
	b.Run("gateway", func(b *testing.B) {
		s := start(b, gateway.Options{Backend: &backend{answer: words("x")}})
		for b.Loop() {
			if err := s.once(ask, "}\n"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("plain", func(b *testing.B) {
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, "{}")
		}))
		defer h.Close()
		s := &server{url: h.URL, client: h.Client()}
		for b.Loop() {
			if err := s.once(ask, "{}"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// once asks and holds that the answer is there to its end.
func (s *server) once(body, end string) error {
	req, err := http.NewRequest("POST", s.url+chatPath, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	all, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !strings.HasSuffix(string(all), end)) {
		err = fmt.Errorf("got %d, %s", resp.StatusCode, all)
	}
	return err
}
