package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/weftnet/weft/cmd/settings"
	"github.com/weftnet/weft/router/api"
)

// Exit codes.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3 // also: already running
)

// program is one run of weft.
type program struct {
	// Constant.
	stdin      io.Reader
	stdout     io.Writer // data, and nothing but data
	stderr     io.Writer
	environ    []string
	euid       int
	executable string // our own path
	dial       func(socket string) daemon
	patience   time.Duration // how long a command is silent, and then how often it speaks
}

// daemon is what a command needs of weftd.
type daemon interface {
	api.Backend
	Pid(ctx context.Context) (int, error)
}

func dialSocket(socket string) daemon { return api.NewClient(socket) }

// usageError is a mistake that is seen before anybody is asked.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func (e *usageError) Unwrap() error { return api.ErrUsage }

func usagef(format string, a ...any) error { return &usageError{fmt.Sprintf(format, a...)} }

// exitError chooses the exit code. Without err nothing is printed, because
// somebody has already said it.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func exitCode(err error) int {
	var e *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.code
	case errors.Is(err, api.ErrUsage):
		return exitUsage
	case errors.Is(err, api.ErrUnreachable), errors.Is(err, api.ErrSilent):
		return exitUnreachable
	}
	return exitFailed
}

// run executes one command line and returns the exit code.
func (p *program) run(ctx context.Context, args []string) int {
	root := p.command()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var silent *exitError
	var usage *usageError
	switch {
	case errors.As(err, &silent) && silent.err == nil:
	case errors.As(err, &usage):
		path := cmd.CommandPath()
		p.say("%s%s; see '%s --help'", strings.TrimPrefix(strings.TrimPrefix(path, "weft")+": ", " "), usage, path)
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		p.say("interrupted")
	default:
		p.say("%v", err)
	}
	return exitCode(err)
}

// say prints one line for people.
func (p *program) say(format string, a ...any) {
	line := strings.ReplaceAll(strings.TrimSpace(fmt.Sprintf(format, a...)), "\n", " ")
	fmt.Fprintf(p.stderr, "weft: %s\n", strings.TrimPrefix(line, ": "))
}

// command builds the tree of commands.
func (p *program) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "weft",
		Short:         "One Ethernet switch for the containers of many hosts",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			hint := ""
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = fmt.Sprintf(", did you mean %s?", strings.Join(near, " or "))
			}
			return usagef("unknown command %q%s", args[0], hint)
		},
		RunE:              func(*cobra.Command, []string) error { return usagef("name a command") },
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},

		SuggestionsMinimumDistance: 2,
	}
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	// Declared here so that cobra does not give it the letter h.
	root.PersistentFlags().Bool("help", false, "show what the command does and takes")
	settings.AddFlags(root.PersistentFlags(), settings.Client)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if errors.Is(err, pflag.ErrHelp) {
			return usagef("unknown flag: -h")
		}
		if rest := cmd.Flags().Args(); cmd == root && len(rest) > 0 {
			return root.Args(root, rest) // the flags are those of a command that nobody knows
		}
		return usagef("%v", err)
	})
	root.SetHelpCommand(p.helpCommand())
	root.AddCommand(
		p.launchCommand(), p.stopCommand(), p.resetCommand(), p.connectCommand(), p.forgetCommand(),
		p.attachCommand(), p.detachCommand(), p.exposeCommand(), p.hideCommand(), p.psCommand(),
		p.dnsAddCommand(), p.dnsRemoveCommand(), p.dnsLookupCommand(), p.dnsArgsCommand(),
		p.primeCommand(), p.rmpeerCommand(), p.statusCommand(), p.whyCommand(), p.uiCommand(), p.reportCommand(), p.tokenCommand(),
		p.envCommand(), p.configCommand(), p.logsCommand(), p.eventsCommand(), p.doctorCommand(), p.versionCommand(), p.completionCommand(),
	)
	return root
}

// load reads the settings that concern every command and returns the daemon.
func (p *program) load(cmd *cobra.Command) (daemon, error) {
	s, err := settings.Load(settings.Client, p.source(cmd), nil)
	if err != nil {
		return nil, err
	}
	return p.dial(s.Socket), nil
}

func (p *program) source(cmd *cobra.Command) settings.Source {
	return settings.Source{Flags: cmd.Flags(), Environ: p.environ, Stdin: p.stdin}
}

// withDaemon makes the body of a command that asks the daemon.
func (p *program) withDaemon(f func(ctx context.Context, d daemon, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		d, err := p.load(cmd)
		if err != nil {
			return err
		}
		return f(cmd.Context(), d, args)
	}
}

// noArgs refuses arguments.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("takes no arguments, got %q", args[0])
	}
	return nil
}

// print writes data.
func (p *program) print(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if _, err := p.stdout.Write(b); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// printJSON writes v as JSON with an indent of four.
func (p *program) printJSON(v any) error {
	b, err := marshalJSON(v)
	if err != nil {
		return err
	}
	return p.print(append(b, '\n'))
}

func marshalJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "    ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("write JSON: %w", err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// output is the value of -o.
type output string

// outputFlag adds -o to a command that lists.
func outputFlag(cmd *cobra.Command) *output {
	o := output("table")
	cmd.Flags().VarP(&o, "output", "o", "print as `table|json`")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return &o
}

func (o *output) String() string { return string(*o) }

func (o *output) Type() string { return "format" }

func (o *output) Set(v string) error {
	if v != "table" && v != "json" {
		return errors.New("want table or json")
	}
	*o = output(v)
	return nil
}

// list prints v as JSON, or the table.
func (p *program) list(o output, v any, table []byte) error {
	if o == "json" {
		return p.printJSON(v)
	}
	return p.print(table)
}
