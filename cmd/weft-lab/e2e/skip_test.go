package e2e

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// skip is a test that is left out with one data path.
type skip struct{ test, datapath, reason string }

// skips is the whole list; everything else runs with both data paths.
func skips() []skip {
	const (
		space      = "who gives which address has nothing to do with the data path; TestStateDirectoryDeleted runs"
		names      = "names are told and answered by the same code with both data paths; TestTraffic and TestOverIPv6 ask for some"
		containers = "a container is a pair of interfaces and a bridge with both data paths; TestStateDirectoryDeleted and TestTraffic have some"
		slow       = "minutes under emulation, and not shown to be steady there; TestPathMTU runs, make soak has this one"
		graph      = "which path is taken is decided by the same code with both data paths; TestChain runs, make soak has this one"
	)
	return []skip{
		{"TestDockerContainers", "kernel", "the guest has no Docker engine; what depends on the data path is in the other tests"},
		{"TestDockerForwardPolicy", "kernel", "the guest has no Docker engine; TestForwardPolicyDrop is the same without one"},
		{"TestReadmeCommands", "kernel", "the guest has neither a checkout nor a Docker engine"},
		{"TestOneWayCut", "kernel", "a minute of waiting for what the membership does, which is the same with both data paths"},
		{"TestOneWayCutOfTwo", "kernel", "a minute of waiting for what the membership does, which is the same with both data paths"},
		{"TestRefusedHeals", "kernel", "a minute of back-off of introductions, which know nothing of the data path"},
		{"TestRefusalMessages", "kernel", "introductions know nothing of the data path"},
		{"TestTargetNames", "kernel", "how targets are resolved has nothing to do with the data path"},
		{"TestTargetNameChanges", "kernel", "how targets are resolved has nothing to do with the data path"},
		{"TestTargetForms", "kernel", "how targets are resolved has nothing to do with the data path; TestOverIPv6 runs"},
		{"TestAnyOrder", "kernel", "who introduces whom has nothing to do with the data path; TestTraffic has the same ring of three"},
		{"TestNamesAreQuick", "kernel", names},
		{"TestNameAnswers", "kernel", names},
		{"TestNamesOfOthers", "kernel", names},
		{"TestContainerDies", "kernel", containers},
		{"TestContainerEnds", "kernel", containers},
		{"TestManyAttachments", "kernel", containers + "; 200 take minutes under emulation"},
		{"TestHostileRules", "kernel", "the rules and who repairs them are the same with both data paths; TestRepair and TestHostileFrames run"},
		{"TestSnapshotNotices", "kernel", "the snapshot is the same program; TestStopAndReset shows that it notices what weft makes"},
		{"TestMistakesChangeNothing", "kernel", "refused commands never come as far as the data path"},
		{"TestMistakesWithoutDaemon", "kernel", "refused commands never come as far as the data path"},
		{"TestMistakesWithoutRoot", "kernel", "refused commands never come as far as the data path"},
		{"TestPartitionHeals", "kernel", "two minutes of waiting for what the membership does, which is the same with both data paths"},
		{"TestOneIdentityTwice", "kernel", "the gossip that finds a clone is the same with both data paths, and slow under emulation"},
		{"TestTenSecondsWithoutNetwork", "kernel", "the membership is the same with both data paths; TestVanishedHostReturns runs"},
		{"TestTenSecondsWithoutHost", "kernel", "ten seconds become fourteen under emulation, longer than the suspicion; TestVanishedHostReturns runs"},
		{"TestRepairWithoutNotifications", "kernel", "the sweep is tested with the other data path; what it repairs is in TestRepair"},
		{"TestAddresses", "kernel", space},
		{"TestAddressesAtOnce", "kernel", space},
		{"TestNamedAddresses", "kernel", space},
		{"TestCutHalvesAllocate", "kernel", space},
		{"TestKillUnderStream", "kernel", space},
		{"TestWaitingEnds", "kernel", space},
		{"TestPowerCutAllocates", "kernel", space},
		{"TestDiskFull", "kernel", space},
		{"TestDamagedDatabase", "kernel", space},
		{"TestDivisionAlone", "kernel", space},
		{"TestDivisionConsensus", "kernel", space},
		{"TestDivisionConsensusOfThree", "kernel", space},
		{"TestDivisionSeed", "kernel", space},
		{"TestDivisionObserver", "kernel", space},
		{"TestRemovePeer", "kernel", space},
		{"TestRemovePeersOutOfReach", "kernel", space},
		{"TestRemovePeerInCut", "kernel", space},
		{"TestResetHandsOver", "kernel", space},
		{"TestTwoSpacesMeet", "kernel", space},
		{"TestTwoSpacesMeetThroughThird", "kernel", space},
		{"TestDockerKeepsAddress", "kernel", "the guest has no Docker engine"},
		{"TestHostileFlood", "kernel", "emulation is too slow for a flood to mean anything"},
		{"TestStar", "kernel", graph},
		{"TestRing", "kernel", graph},
		{"TestLongChain", "kernel", graph},
		{"TestTwoSites", "kernel", graph},
		{"TestDirectPathDiesUnderLoad", "kernel", graph},
		{"TestDirectPathDiesOneWay", "kernel", graph},
		{"TestDirectPathDiesOtherWay", "kernel", graph},
		{"TestRelayDies", "kernel", "minutes under emulation; which path is taken is decided by the same code with both data paths, make soak has this one"},
		{"TestSecondRelayDies", "kernel", graph},
		{"TestOnlyOutbound", "kernel", graph},
		{"TestNoDiscovery", "kernel", graph},
		{"TestSymmetricNAT", "kernel", graph},
		{"TestDirectPathDies", "kernel", "seen there by hand in 48 s; make soak has it"},
		{"TestRelaySeesNothing", "kernel", "seen there by hand in 27 s; make soak has it"},
		{"TestForgedFragNeeded", "kernel", "seen there by hand in 22 s; make soak has it"},
		{"TestMulticastMembers", "kernel", "the kernel floods groups to all hosts; seen there by hand in 59 s"},
		{"TestBusyEnds", "kernel", "seen there by hand in 160 s, too long for every run; make soak has it"},
		{"TestOnlyRelayRestarts", "kernel", "seen there by hand in 91 s, too long for every run; make soak has it"},
		{"TestRandomGraphs", "kernel", "twelve daemons take minutes under emulation; TestChain runs, make soak has this one"},
		{"TestPathNarrows", "kernel", slow},
		{"TestLargeMTU", "kernel", slow},
		{"TestBothFamilies", "kernel", graph},
		{"TestSeveralInterfaces", "kernel", graph},
		{"TestHostMoves", "kernel", "seven moves take minutes under emulation; TestPunching changes endpoints, too"},
		{"TestReachedByOneOnly", "kernel", "a minute of waiting for what the membership does, which is the same with both data paths"},
		{"TestLossyNetwork", "kernel", "a minute of waiting for what the path machines do, which are the same with both data paths"},
		{"TestNATs", "kernel", "sixteen labs, and half a minute of waiting in each; TestPunching runs"},
		{"TestRelayTampers", "kernel", "the relay is in the daemon with both data paths; the guest's kernel has no filters to tamper with"},
		{"TestRelayStrangers", "kernel", "emulation is too slow for a flood to mean anything; the relay is in the daemon with both data paths"},
	}
}

// TestSkipList holds the list to tests that exist and ask for it, each left out
// for a reason.
func TestSkipList(t *testing.T) {
	var tests []string
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 && os.Getenv("CI") != "true" {
		t.Skip("SKIPPED, NOT TESTED: the sources are not here")
	}
	for _, f := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && (strings.HasPrefix(fn.Name.Name, "Test") || strings.HasPrefix(fn.Name.Name, "Benchmark")) {
				tests = append(tests, fn.Name.Name)
			}
		}
	}
	for _, s := range skips() {
		if len(files) > 0 && !slices.Contains(tests, s.test) {
			t.Errorf("%s is left out, but there is no such test", s.test)
		}
		if s.datapath != "kernel" && s.datapath != "userspace" {
			t.Errorf("%s: there is no data path %q", s.test, s.datapath)
		}
		if len(s.reason) < 20 {
			t.Errorf("%s is left out without a reason", s.test)
		}
	}
}
