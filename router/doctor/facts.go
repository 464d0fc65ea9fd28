package doctor

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/router/api"
)

// Facts is what was seen. What could not be looked at has its zero value, and
// an entry in Stuck or an error beside it when it should have been.
type Facts struct {
	Daemon   bool     // the daemon tells; otherwise this is a program beside it
	Process  Daemon   // of the daemon, as seen from beside it
	Taken    []string // ports that other programs have, while no daemon runs
	Datapath string   // that is used, or asked for: kernel | userspace | auto
	Port     uint16   // of introductions; WireGuard has the next one

	Kernel     Kernel
	Firewall   Firewall
	Sysctls    map[string]string // by their path below /proc/sys
	Exposed    bool              // containers reach other networks through this host
	Neighbours []Neighbours      // empty where the kernel does not show them
	Docker     Docker
	Disks      []Disk
	Resolv     []netip.Addr // name servers of the host
	Names      Names

	Status   *api.Status // nil: nobody told
	Whys     map[string]api.Why
	Checkups map[string]Checkup // by name of the peer
	Versions map[string]string  // of peers, likewise
	Version  string             // our own

	Stuck []Stuck // steps that were given up
}

// Daemon is a process that should answer and does not.
type Daemon struct {
	Pid     int // zero: there is none, or it cannot be seen
	Stopped bool
	Err     string
}

// Kernel is what the kernel and the programs that weft needs can do.
type Kernel struct {
	Looked                bool
	WireGuard, VXLAN, TUN string // empty: yes; else why not
	Bridge, NFT, IPv6     string
}

// Firewall is the host's rules.
type Firewall struct {
	Rules  Ruleset
	Legacy Ruleset // of iptables' former interface, which nft does not show
	// Err is why they could not be read, or not all of them: TooLarge.
	Err      string
	TooLarge bool
}

// Docker is how the engine is set up.
type Docker struct {
	Present  bool
	Config   string // the file
	Err      string // it cannot be understood
	IPTables bool
	Live     bool // live-restore
	DNS      []string
	Plugin   bool // containers on networks of ours may be there
}

// Disk is the file system below a directory that is written to.
type Disk struct {
	Path        string
	Free, Total uint64 // bytes for root
	Inodes      uint64 // free; zero with Total zero: not told
	NoInodes    bool   // none free where they are counted
	Err         string // of writing a small file
}

// Names is how names are answered.
type Names struct {
	Off       bool
	Address   string
	Err       string // of asking the embedded server; empty: it answers
	Looked    bool
	Upstreams []Upstream
}

// Upstream is one resolver that queries are passed on to.
type Upstream struct {
	Address string
	Err     string // empty: it answers
}

// Checkup is what a peer answered when it was asked how it does.
type Checkup struct {
	Answered bool
	RTT      time.Duration
	Skew     time.Duration // its clock minus ours, give or take half the RTT
	Back     Reach         // our TCP port, from there
	There    string        // its TCP port, from here; empty: reached
	Looked   bool          // There was looked at
	MTU      int           // largest packet inside that came back whole; zero: not tried
	Sent     int           // the size that was tried
	Names    Reach         // its own name server, from there
}

// Reach is whether a peer reaches a port of ours.
type Reach byte

// What a peer says of that.
const (
	Unknown Reach = iota
	Reached
	Closed
)

// Stuck is a step of gathering that did not end in time, or failed.
type Stuck struct{ Step, Err string }

// stuck says whether a step brought nothing.
func (f Facts) stuck(step string) bool {
	return slices.ContainsFunc(f.Stuck, func(s Stuck) bool { return s.Step == step })
}
