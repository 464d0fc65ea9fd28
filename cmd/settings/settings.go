// Package settings is the one table of everything that people can set: the
// name that is flag, WEFT_ variable and YAML key at once, its default, its
// check and its help. [Load] turns what was set into [Settings].
//
// It reads the configuration file, a password file and the secret's
// descriptor, and nothing else; it knows nothing of cobra, starts nothing and
// never prints.
package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/weftnet/weft/crypto"
	"github.com/weftnet/weft/mesh/ipam"
	"github.com/weftnet/weft/router/api"
)

// What this program is and speaks.
const (
	Version  = "0.1.0"
	Protocol = "weft 1"
	// The versions of the rules between hosts that this program speaks; the last
	// one is that of Protocol.
	OldestProtocol, NewestProtocol = 1, 1
)

// Where things are unless somebody says otherwise.
const (
	DefaultConfig   = "/etc/weft/weft.yaml"
	DefaultStateDir = "/var/lib/weft"
	DefaultSocket   = api.DefaultSocket

	DefaultPluginSocket = "/run/docker/plugins/weft.sock"
)

// Settings are checked values. They are immutable.
type Settings struct {
	Cluster      string
	Secret       Secret // zero: none given
	WeakPassword bool

	Hosts    []netip.Addr // where others reach us, the first parts of our advert
	Port     uint16       // introduction; WireGuard has the next one
	Name     crypto.Name  // zero: the kept or derived one
	Nickname string

	Targets     []string // as typed, each once
	Resume      bool     // keep the targets of the last run
	NoDiscovery bool
	ConnLimit   int // zero: no limit

	Datapath string // auto | kernel | userspace
	Offload  string // auto | off
	MTU      int    // of the switch; zero: from the underlay

	NoDNS      bool
	DNSDomain  string // lower case, with its final dot
	DNSListen  netip.AddrPort
	DNSTTL     uint32 // seconds
	ResolvConf string

	Range         netip.Prefix  // of containers' addresses; zero: the allocator is off
	DefaultSubnet netip.Prefix  // inside Range; zero with it
	Division      ipam.Mode     // how Range is divided, once
	ReclaimAfter  time.Duration // when to ask for rmpeer; zero: never

	Plugin           bool // serve Docker's network driver
	PluginSocket     string
	WithoutDNS       bool // for Docker's containers
	NoMulticastRoute bool // likewise
	Proxy            Proxy

	StateDir   string
	Socket     string
	Config     string
	StatusAddr string // host:port; empty: no status listener
	UI         bool   // show the picture there from the start
	LogLevel   string // debug | info | warning | error
	LogFormat  string // text | json

	// Sources says who set an option: "--port", "WEFT_PORT", or the path of
	// the configuration file. An option that is missing has its default.
	Sources map[string]string
}

// WireGuardPort is the UDP port of WireGuard and of probes.
func (s Settings) WireGuardPort() uint16 { return s.Port + 1 }

// checkRange brings the default subnet into the range.
func (s *Settings) checkRange() error {
	switch sub := s.DefaultSubnet; {
	case !s.Range.IsValid():
		s.DefaultSubnet = netip.Prefix{}
	case !sub.IsValid():
		s.DefaultSubnet = s.Range
	case sub.Bits() < s.Range.Bits() || !s.Range.Contains(sub.Addr()):
		return invalid("--ipalloc-default-subnet: %s is not inside the range %s", sub, s.Range)
	}
	return nil
}

// IPAMMark is where the address allocator notes how far its database got: on
// a file system that does not outlive the boot, so that an old copy shows.
func (s Settings) IPAMMark() string { return filepath.Join(filepath.Dir(s.Socket), "ipam.mark") }

// LogFile is where `weft launch` lets the daemon log.
func (s Settings) LogFile() string { return filepath.Join(filepath.Dir(s.Socket), "weftd.log") }

// CheckSecret returns an error that wraps [api.ErrUsage] when peers are named
// although no secret is given or kept: nobody could be met. made says that a
// daemon started with these settings will make a secret of its own.
func (s Settings) CheckSecret() (made bool, err error) {
	if !s.Secret.IsZero() {
		return false, nil
	}
	switch _, err := crypto.LoadSecret(s.StateDir); {
	case err == nil:
		return false, nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	if len(s.Targets) > 0 {
		return false, invalid("peers are named but this host has no cluster secret: " +
			"give the --token that 'weft token' prints on one of them, or the --password of the cluster")
	}
	return true, nil
}

// invalidError is a wrong setting: its text, and api.ErrUsage underneath.
type invalidError struct{ text string }

func (e *invalidError) Error() string { return e.text }

func (e *invalidError) Unwrap() error { return api.ErrUsage }

func invalid(format string, a ...any) error { return &invalidError{fmt.Sprintf(format, a...)} }
