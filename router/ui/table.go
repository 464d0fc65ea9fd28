package ui

import (
	"fmt"
	"html/template"
	"net/http"
	"time"
)

// table is the picture in words, without a script: for text browsers and for
// everybody who wants to print or copy it.
func (u *UI) table(w http.ResponseWriter, r *http.Request) {
	s, err := u.status(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	p := Draw(s, u.now())
	if len(p.Say) > 1 {
		p.Say = p.Say[1:] // the first one is for those who see no list
	}
	nick := nicknames(p)
	t, err := template.New("table.tmpl").Funcs(template.FuncMap{
		"nick": func(id string) string {
			if n := nick[id]; n != "" {
				return n
			}
			return id
		},
		"ms":      milliseconds,
		"words":   State.words,
		"percent": func(f float64) string { return fmt.Sprintf("%.1f%%", 100*f) },
		"when":    func(ms int64) string { return time.UnixMilli(ms).Format(time.DateTime) },
	}).ParseFS(page, "page/table.tmpl")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := t.Execute(w, struct {
		Picture
		NameList []Name
	}{p, namesOf(s)}); err != nil {
		u.log.Debug("the table was not taken", "err", err)
	}
}

// milliseconds is empty for what was not measured.
func milliseconds(ms float64) string {
	switch {
	case ms <= 0:
		return ""
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

// words are those of the page's legend.
func (s State) words() string {
	switch s {
	case Direct:
		return "direct"
	case Relayed:
		return "through others"
	case Pending:
		return "being set up"
	case Failed:
	}
	return "no path"
}
