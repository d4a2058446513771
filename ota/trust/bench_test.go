package trust

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkRefresh is what a gateway computes at a poll without news, and at one with a new order, in a fleet with few and with many
// bins of orders. The repository and the disk are in memory.
func BenchmarkRefresh(b *testing.B) {
	ctx := context.Background()
	for _, bits := range []int{4, 12} {
		f := newFleet(b)
		for role := range f.roles {
			if strings.HasPrefix(role, "orders-") {
				delete(f.roles, role)
				delete(f.snap.Signed.Meta, role+".json")
			}
		}
		f.bins("orders", bits)
		f.order("gw7", `{"serial":1}`)
		f.publish()
		old := f.copyFiles()
		f.order("gw7", `{"serial":2}`)
		f.next("orders-" + f.binOf("gw7"))
		fresh := f.copyFiles()
		b.Run(fmt.Sprintf("idle/bins=%d", 1<<bits), func(b *testing.B) {
			r := f.gateway(&mem{files: old, whole: true}).open()
			require.NoError(b, r.Refresh(ctx))
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, r.Refresh(ctx))
			}
		})
		b.Run(fmt.Sprintf("news/bins=%d", 1<<bits), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				src := &mem{files: old, whole: true}
				r := f.gateway(src).open()
				require.NoError(b, r.Refresh(ctx))
				src.files = fresh
				b.StartTimer()
				require.NoError(b, r.Refresh(ctx))
				_, err := r.Target(ctx, "orders/gw7.json")
				require.NoError(b, err)
			}
		})
	}
}
