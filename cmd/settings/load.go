package settings

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"github.com/weftnet/weft/router/api"
)

// secretFD is the hidden flag by which a daemon gets its secret.
const secretFD = "secret-fd"

// Source is where [Load] looks. Flags must have been filled by [AddFlags] and
// parsed.
type Source struct {
	Flags   *pflag.FlagSet
	Environ []string  // "KEY=value"
	Stdin   io.Reader // for --password-file=-; nil: none
}

// AddFlags declares the flags of a program. Flags that are there already are
// left alone.
func AddFlags(flags *pflag.FlagSet, p Program) {
	for _, o := range options() {
		switch {
		case o.programs&p == 0 || o.noFlag || flags.Lookup(o.name) != nil:
		case o.isBool:
			flags.Bool(o.name, o.def == "true", o.help)
		case o.many:
			flags.VarP(&list{value: o.def}, o.name, o.short, o.help)
		default:
			flags.String(o.name, o.def, o.help)
		}
	}
	if p == Daemon {
		flags.Int(secretFD, -1, "read {\"token\"|\"password\": …} from this `DESCRIPTOR` and close it")
		_ = flags.MarkHidden(secretFD) // it was declared one line above
	}
}

// DaemonArgs returns the flags that somebody set for a launch in the form in
// which a daemon takes them, without secrets.
func DaemonArgs(flags *pflag.FlagSet, p Program) []string {
	var args []string
	for _, o := range options() {
		if f := flags.Lookup(o.name); f != nil && f.Changed && !o.secret && o.programs&p != 0 {
			args = append(args, "--"+o.name+"="+f.Value.String())
		}
	}
	return args
}

// ChildEnviron returns environ without what holds or names a secret.
func ChildEnviron(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return slices.ContainsFunc(options(), func(o option) bool { return o.secret && o.variable() == key })
	})
}

// Load reads what was set for p: flags beat WEFT_ variables, which beat the
// configuration file, which beats defaults. It may block on files and, for a
// daemon, on the secret's descriptor. A wrong setting is an error that wraps
// [api.ErrUsage] and names the option as its setter wrote it.
func Load(p Program, src Source, targets []string) (Settings, error) {
	return load(newLoader(p, src), targets)
}

// LoadWithoutFile is [Load] for who must go on with a configuration file that is
// broken: nothing is read from it, and Config says which it is.
func LoadWithoutFile(p Program, src Source) (Settings, error) {
	l := newLoader(p, src)
	l.noFile = true
	return load(l, nil)
}

func newLoader(p Program, src Source) loader {
	return loader{program: p, src: src, flags: koanf.New("."), env: koanf.New("."), file: koanf.New(".")}
}

func load(l loader, targets []string) (Settings, error) {
	p := l.program
	s := Settings{Sources: map[string]string{}}
	if err := l.read(); err != nil {
		return Settings{}, err
	}
	for _, o := range options() {
		if o.programs&p == 0 {
			continue
		}
		value, label, origin, err := l.value(o)
		if err != nil {
			return Settings{}, err
		}
		if origin != "" {
			s.Sources[o.name] = origin
		}
		if o.set == nil {
			continue
		}
		if o.name == "nickname" && origin == "" {
			if value, err = os.Hostname(); err != nil {
				return Settings{}, fmt.Errorf("find the name of this host (set --nickname): %w", err)
			}
			label = "the name of this host, " + value
		}
		if err := o.set(&s, value); err != nil {
			return Settings{}, invalid("%s: %v", label, err)
		}
	}
	if p&run == 0 {
		return s, nil
	}
	if err := s.checkRange(); err != nil {
		return Settings{}, err
	}
	if err := s.checkProxy(); err != nil {
		return Settings{}, err
	}
	var err error
	if s.Secret, err = l.secret(s.WeakPassword); err != nil {
		return Settings{}, err
	}
	if err := setTargets(&s, targets); err != nil {
		return Settings{}, err
	}
	return s, nil
}

// setTargets takes the peers that are named as arguments, if there are any:
// they come instead of those that were set.
func setTargets(s *Settings, targets []string) error {
	if len(targets) == 0 {
		return nil
	}
	s.Targets = nil
	for _, t := range targets {
		if err := addTarget(s, t); err != nil {
			return err
		}
	}
	if s.Resume {
		return invalid("--resume keeps the peers of the last run: name none, or leave it out")
	}
	return nil
}

// setPeers takes a list of peers.
func setPeers(s *Settings, v string) error {
	for t := range strings.SplitSeq(v, ",") {
		if t = strings.TrimSpace(t); t == "" {
			continue
		}
		if err := addTarget(s, t); err != nil {
			return err
		}
	}
	return nil
}

func addTarget(s *Settings, t string) error {
	if _, _, err := api.ParseTarget(t); err != nil {
		return err
	}
	if !slices.Contains(s.Targets, t) {
		s.Targets = append(s.Targets, t)
	}
	return nil
}

// loader holds the layers apart, so that an error can name its origin.
type loader struct {
	program          Program
	src              Source
	noFile           bool           // the configuration file is not looked at
	path             string         // of it
	lines            map[string]int // of its keys
	flags, env, file *koanf.Koanf
}

func (l *loader) read() error {
	known := func(name string) (option, bool) {
		o, ok := find(name)
		return o, ok && o.programs&l.program != 0
	}
	err := l.flags.Load(posflag.ProviderWithFlag(l.src.Flags, ".", nil, func(f *pflag.Flag) (string, any) {
		if _, ok := known(f.Name); !ok {
			return "", nil
		}
		return f.Name, f.Value.String()
	}), nil)
	if err != nil {
		return fmt.Errorf("read flags: %w", err)
	}
	err = l.env.Load(env.Provider(".", env.Opt{
		Prefix:      "WEFT_",
		EnvironFunc: func() []string { return l.src.Environ },
		TransformFunc: func(key, value string) (string, any) {
			name := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(key, "WEFT_")), "_", "-")
			o, ok := find(name)
			if !ok || value == "" || o.variable() != key {
				return "", nil // containers carry variables of ours that are no settings
			}
			return name, value
		},
	}), nil)
	if err != nil {
		return fmt.Errorf("read environment: %w", err)
	}
	if l.noFile {
		return nil
	}
	return l.readFile()
}

func (l *loader) readFile() error {
	o, _ := find("config")
	value, label, origin, err := l.value(o)
	if err != nil {
		return err
	}
	if err := path(&l.path, value); err != nil {
		return invalid("%s: %v", label, err)
	}
	err = l.file.Load(file.Provider(l.path), yaml.Parser())
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist) && origin == "":
		return nil
	case errors.Is(err, fs.ErrPermission) && origin == "" && l.program == Client:
		return nil // a member of the group need not be able to read it
	default:
		if _, ok := errors.AsType[*fs.PathError](err); ok {
			return invalid("read settings: %v", err)
		}
		return invalid("read settings: %s: %s", l.path, oneLine(err))
	}
	l.lines = keyLines(l.path)
	if l.program&run == 0 {
		return nil // what a command does not need must not keep it from working
	}
	return l.checkFile()
}

// value returns an option's value, how an error should call it, and its
// origin, which is empty for the default.
func (l *loader) value(o option) (value, label, origin string, err error) {
	flag := "--" + o.name
	switch {
	case l.flags.Exists(o.name):
		value, origin, label = l.flags.String(o.name), flag, flag+"="
	case l.env.Exists(o.name):
		value, origin, label = l.env.String(o.name), o.variable(), o.variable()+"="
	case !o.noFile && l.file.Exists(o.name):
		if value, err = scalar(l.file.Get(o.name)); err != nil {
			return "", "", "", invalid("%s: %s: %v", l.at(o.name), o.name, err)
		}
		origin, label = l.path, l.at(o.name)+": "+o.name+": "
	default:
		value = o.def
		if o.isBool && value == "" {
			value = "false"
		}
		return value, flag + "=" + value, "", nil
	}
	if o.secret {
		return value, strings.TrimRight(label, "=: "), origin, nil
	}
	return value, label + value, origin, nil
}

// scalar returns a YAML value as somebody would have typed it as a flag.
func scalar(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case bool, int, int64, uint64, float64:
		return fmt.Sprint(v), nil
	case []any:
		parts := make([]string, 0, len(v))
		for _, e := range v {
			part, err := scalar(e)
			if err != nil {
				return "", err
			}
			parts = append(parts, part)
		}
		return strings.Join(parts, ","), nil
	}
	return "", invalid("want one value")
}

// oneLine flattens the multi-line errors of the YAML parser.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
