package fdb

import (
	"testing"

	"github.com/weftnet/weft/router/signal"
)

func TestInnerMTU(t *testing.T) {
	for _, tc := range []struct {
		path int
		v6   bool
		want int
	}{
		{1500, false, 1370}, {1500, true, 1338}, {9000, false, 8858}, {1280, false, 1146},
	} {
		got := InnerMTU(tc.path, tc.v6)
		if got != tc.want {
			t.Errorf("path of %d, IPv6 %v: %d, want %d", tc.path, tc.v6, got, tc.want)
		}
		// What is padded still fits.
		padded := (got + Encapsulation + 15) &^ 15
		overhead := TunnelOverhead + signal.HeadersIPv4
		if tc.v6 {
			overhead = TunnelOverhead + signal.HeadersIPv6
		}
		if padded+overhead > tc.path {
			t.Errorf("path of %d: a full packet is %d bytes", tc.path, padded+overhead)
		}
	}
}
