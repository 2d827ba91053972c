// xterm.js writes style elements and style attributes, which the page's policy forbids. It is given
// a document whose style elements put their text into a constructed style sheet instead, and spans
// (its cells) take their style attribute as properties; the policy allows both.

HTMLSpanElement.prototype.setAttribute = function (key: string, value: string) {
  if (key === 'style') this.style.cssText = value;
  else Element.prototype.setAttribute.call(this, key, value);
};

export interface Styles {
  document: Document;
  /** Does something during which the page's own document behaves like `document`. */
  during: (action: () => void) => void;
  dispose: () => void;
}

export function styles(): Styles {
  const sheets: CSSStyleSheet[] = [];
  const real = document.createElement.bind(document);

  function create(name: string, options?: ElementCreationOptions): HTMLElement {
    if (name !== 'style') return real(name, options);
    const sheet = new CSSStyleSheet();
    sheets.push(sheet);
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
    // A style element would be refused even when it is empty.
    const element = real('template');
    Object.defineProperty(element, 'textContent', { set: (css: string) => sheet.replaceSync(css), get: () => '' });
    return element;
  }

  const own = new Proxy(document, {
    get(target, property) {
      if (property === 'createElement') return create;
      const value = Reflect.get(target, property, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  return {
    document: own,
    during(action) {
      document.createElement = create as typeof document.createElement;
      try {
        action();
      } finally {
        // The method of the prototype shows again.
        delete (document as Partial<Document>).createElement;
      }
    },
    dispose() {
      document.adoptedStyleSheets = document.adoptedStyleSheets.filter((s) => !sheets.includes(s));
    },
  };
}
