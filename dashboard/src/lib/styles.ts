// xterm.js writes style elements, which the page's policy forbids. It is given a document whose
// style elements put their text into a constructed style sheet instead, which the policy allows.

export function styles(): { document: Document; dispose: () => void } {
  const sheets: CSSStyleSheet[] = [];
  const own = new Proxy(document, {
    get(target, property) {
      if (property !== 'createElement') {
        const value = Reflect.get(target, property, target);
        return typeof value === 'function' ? value.bind(target) : value;
      }
      return (name: string, options?: ElementCreationOptions) => {
        const element = target.createElement(name, options);
        if (name !== 'style') return element;
        const sheet = new CSSStyleSheet();
        sheets.push(sheet);
        target.adoptedStyleSheets = [...target.adoptedStyleSheets, sheet];
        Object.defineProperty(element, 'textContent', {
          set: (css: string) => sheet.replaceSync(css),
          get: () => '',
        });
        return element;
      };
    },
  });
  return {
    document: own,
    dispose: () => {
      document.adoptedStyleSheets = document.adoptedStyleSheets.filter((s) => !sheets.includes(s));
    },
  };
}
