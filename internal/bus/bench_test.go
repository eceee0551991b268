package bus_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

func BenchmarkRequest(b *testing.B) {
	s := newSite(b)
	agent, controller := s.agent(b, "n1"), s.controller(b)
	subject := bus.CommandSubject("n1", bus.VerbResolve)
	handle(b, agent, subject, func(_ context.Context, decode func(any) error) (any, error) {
		var q bus.ResolveRequest
		err := decode(&q)
		return bus.ResolveReply{Model: cluster.Model{Name: q.Model}}, err
	})
	for b.Loop() {
		var reply bus.ResolveReply
		if err := controller.Request(b.Context(), subject, bus.ResolveRequest{Model: "tiny"}, &reply); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStream1(b *testing.B)  { benchmarkStreams(b, 1) }
func BenchmarkStream32(b *testing.B) { benchmarkStreams(b, 32) }

// benchmarkStreams measures messages of the size of a usual chunk, from an agent over TLS to a controller in process.
func benchmarkStreams(b *testing.B, streams int) {
	b.Helper()
	s := newSite(b)
	agent, controller := s.agent(b, "n1"), s.controller(b)
	chunk := cluster.Chunk{Text: strings.Repeat("x", 100), Tokens: []int{12345, 23456, 34567}}
	serve(b, agent, "n1", streams, func(_ context.Context, decode func(any) error, w *bus.StreamWriter) error {
		var to count
		if err := decode(&to); err != nil {
			return err
		}
		for range to.N {
			if err := w.Send(chunk); err != nil {
				return err
			}
		}
		return nil
	})
	each := b.N/streams + 1
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range streams {
		stream := open(b, controller, call("n1", fmt.Sprintf("s%d", i), each))
		wg.Go(func() {
			for range each {
				var got cluster.Chunk
				if err := stream.Next(b.Context(), &got); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(streams*each)/b.Elapsed().Seconds(), "msg/s")
}
