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

// skip is a test that is left out with one data path, or where hosts of both
// stand side by side ("mixed"), which takes the kernel's as well.
type skip struct{ test, datapath, reason string }

// skips is the whole list; everything else runs with both data paths.
func skips() []skip {
	const (
		space      = "who gives which address has nothing to do with the data path; TestStateDirectoryDeleted runs"
		names      = "names are told and answered by the same code with both data paths; TestTraffic and TestOverIPv6 ask for some"
		containers = "a container is a pair of interfaces and a bridge with both data paths; TestStateDirectoryDeleted and TestTraffic have some"
		slow       = "half a minute or more there on two quiet processors; TestPathMTU runs, make soak-kernel has this one"
		graph      = "which path is taken is decided by the same code with both data paths; TestChain runs, make soak-kernel has this one"
		doctor     = "the doctor looks at the same with both data paths; TestDoctorHost and TestFindingsWithoutDaemon run, make soak-mixed has this one"
		debian     = "the guest has no Debian into which a package could be installed"
		alone      = "it tests what tests are made of, and no host takes part"
		seen       = "seen passing there in one to two and a half minutes, too long for every run; make soak-kernel has it"
	)
	return []skip{
		{"TestProtocolVersions", "kernel", "it builds daemons, and the guest has no compiler; introductions are the same there"},
		{"TestRollingUpgrade", "kernel", "the guest has the programs of one release; TestKillAndLaunch and TestRestartGap restart daemons there"},
		{"TestDockerContainers", "kernel", "the guest has no Docker engine; what depends on the data path is in the other tests"},
		{"TestDockerNetwork", "kernel", "the guest has no Docker engine; who moves an interface has nothing to do with the data path"},
		{"TestProxyRun", "kernel", "the guest has no Docker engine"},
		{"TestProxyPasses", "kernel", "the guest has no Docker engine"},
		{"TestProxyFlags", "kernel", "the guest has no Docker engine"},
		{"TestCompose", "kernel", "the guest has no Docker engine"},
		{"TestDockerTwentyEach", "kernel", "the guest has no Docker engine"},
		{"TestDockerShortLived", "kernel", "the guest has no Docker engine"},
		{"TestPodman", "kernel", "the guest has neither a checkout nor podman"},
		{"TestImage", "kernel", "the guest has no Docker engine"},
		{"TestOrders", "kernel", "the guest has no Docker engine"},
		{"TestUnit", "kernel", debian},
		{"TestUnitRefuses", "kernel", debian},
		{"TestUnitsHardened", "kernel", debian},
		{"TestPackage", "kernel", debian},
		{"TestPackageReproducible", "kernel", debian},
		{"TestBoot", "kernel", debian},
		{"TestInstallPage", "kernel", debian},
		{"TestDockerForwardPolicy", "kernel", "the guest has no Docker engine; TestForwardPolicyDrop is the same without one"},
		{"TestTroubleshootingTells", "kernel", "the guest has no checkout"},
		{"TestTroubleshootingCommands", "kernel", "the guest has no checkout"},
		{"TestBenchWays", "kernel", "a benchmark; TestTraffic measures what passes there"},
		{"TestReadmeCommands", "kernel", "the guest has neither a checkout nor a Docker engine"},
		{"TestOneWayCut", "kernel", "a minute of waiting for what the membership does, which is the same with both data paths"},
		{"TestOneWayCutOfTwo", "kernel", "a minute of waiting for what the membership does, which is the same with both data paths"},
		{"TestRefusedHeals", "kernel", "a minute of back-off of introductions, which know nothing of the data path"},
		{"TestProtocolVersions", "kernel", "introductions know nothing of the data path"},
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
		{"TestFaultsAreTold", "kernel", "the guest has neither promtool nor the alert rules, and what is told is the same with both data paths"},
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
		{"TestStar", "kernel", "seen passing there, four minutes on busy processors; make soak-kernel has it"},
		{"TestRing", "kernel", "seen passing there, 23 s on two quiet processors and minutes on busy ones; make soak-kernel has it"},
		{"TestLongChain", "kernel", graph},
		{"TestTwoSites", "kernel", graph},
		{"TestDirectPathDiesUnderLoad", "kernel", seen},
		{"TestDirectPathDiesOneWay", "kernel", seen},
		{"TestDirectPathDiesOtherWay", "kernel", graph},
		{"TestRelayDies", "kernel", seen},
		{"TestSecondRelayDies", "kernel", seen},
		{"TestOnlyOutbound", "kernel", graph},
		{"TestNoDiscovery", "kernel", graph},
		{"TestSymmetricNAT", "kernel", graph},
		{"TestDirectPathDies", "kernel", "seen there by hand in 48 s; make soak-kernel has it"},
		{"TestRelaySeesNothing", "kernel", "seen there by hand in 27 s; make soak-kernel has it"},
		{"TestForgedFragNeeded", "kernel", "seen there by hand in 22 s; make soak-kernel has it"},
		{"TestMulticastMembers", "kernel", "the guest's kernel is 6.1, which floods groups to all hosts; WEFT_GUEST_KERNEL names one that does not"},
		{"TestBusyEnds", "kernel", "seen there by hand in 160 s, too long for every run; make soak-kernel has it"},
		{"TestOnlyRelayRestarts", "kernel", "seen there by hand in 91 s, too long for every run; make soak-kernel has it"},
		{"TestRandomGraphs", "kernel", "seen there in 212 s on two quiet processors, not beside other work; TestChain runs, make soak-kernel has this one"},
		{"TestDay", "kernel", "a minute there; make soak-mixed has it, make soak-kernel its long form, which was not seen to its end there"},
		{"TestPathNarrows", "kernel", slow},
		{"TestLargeMTU", "kernel", slow},
		{"TestBothFamilies", "kernel", graph},
		{"TestSeveralInterfaces", "kernel", graph},
		{"TestHostMoves", "kernel", "seven moves took a minute there; TestPunching changes endpoints, too, and make soak-kernel has this one"},
		{"TestReachedByOneOnly", "kernel", "a minute of waiting for what the membership does, which is the same with both data paths"},
		{"TestCoalescedLost", "kernel", "the kernel's WireGuard gives packets to the network as it likes, and cannot be told"},
		{"TestLossyNetwork", "kernel", "a minute of waiting for what the path machines do, which are the same with both data paths"},
		{"TestNATs", "kernel", "sixteen labs, and half a minute of waiting in each; TestPunching runs"},
		{"TestNoSecretLeaves", "kernel", "what a host prints is the same with both data paths; make soak-mixed has this one"},
		{"TestKillAll", "kernel", "seen there in 54 s; TestKillAndLaunch, TestPowerCut and TestNothingLostAcrossKill kill daemons there"},
		{"TestFindingsWithoutDaemon", "kernel", "without a daemon there is no data path; TestDoctorHost runs"},
		{"TestPicture", "kernel", "the guest has no browser, and the picture knows nothing of the data path"},
		{"TestDemoUI", "kernel", "the demo is the same with both data paths, and the guest's address is nobody's"},
		{"TestPictureSizes", "kernel", "the guest has no browser, and the picture knows nothing of the data path"},
		{"TestRelayTampers", "kernel", "the relay is in the daemon with both data paths; the guest's kernel has no filters to tamper with"},
		{"TestRelayStrangers", "kernel", "emulation is too slow for a flood to mean anything; the relay is in the daemon with both data paths"},
		{"TestKernelWithoutIPv6", "mixed", "it has a guest to itself, in make kernel, where one host is enough"},
		{"TestNothingLostAcrossKill", "userspace", "what forwards ends with the daemon there; TestRestartGap shows for how long"},
		{"TestParse", "mixed", alone},
		{"TestSweptByChance", "mixed", alone},
		{"TestTurns", "mixed", alone},
		{"TestSkipList", "mixed", alone},
		{"TestEveryFindingHasALabTest", "mixed", alone},
		{"TestNeighbourTables", "mixed", "the tables are the machine's, whatever forwards; it runs with the kernel's data path"},
		{"TestFindingsOfHost", "kernel", doctor},
		{"TestFindingsBetweenHosts", "kernel", doctor},
		{"TestFindingsOfAddressSpace", "kernel", space},
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
		if s.datapath != "kernel" && s.datapath != "userspace" && s.datapath != "mixed" {
			t.Errorf("%s: there is no data path %q", s.test, s.datapath)
		}
		if len(s.reason) < 20 {
			t.Errorf("%s is left out without a reason", s.test)
		}
	}
	if len(files) > 0 {
		mixed(t, tests)
	}
}

// mixed holds that every test either runs in make soak-mixed or is left out for
// a reason.
func mixed(t *testing.T, tests []string) {
	t.Helper()
	b, err := os.ReadFile("../../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.ReplaceAll(string(b), "$\\\n", "")
	value := func(variable string) string {
		_, list, _ := strings.Cut(lines, "\n"+variable+":= ")
		list, _, _ = strings.Cut(list, "\n")
		return list
	}
	list := strings.ReplaceAll(value("MIXED       "), "$(PATHS)", value("PATHS       "))
	runs := map[string]bool{}
	for name := range strings.FieldsSeq(strings.ReplaceAll(list, "|", " ")) {
		name, _, _ = strings.Cut(name, "/") // some of its subtests
		if runs["Test"+name] = true; !slices.Contains(tests, "Test"+name) {
			t.Errorf("make soak-mixed names %s, but there is no such test", name)
		}
	}
	for _, name := range tests {
		left := slices.ContainsFunc(skips(), func(s skip) bool { return s.test == name && s.datapath != "userspace" })
		if strings.HasPrefix(name, "Test") && name != "TestMain" && !runs[name] && !left {
			t.Errorf("%s neither runs in make soak-mixed nor is left out for a reason", name)
		}
	}
}
