// Who the page acts as: the user of a proxy's credential, or of a session that a login link began.

import { get, send, text } from './api';
import { live } from './live.svelte';

class Session {
  user = $state('');
  anonymous = $state(false);
  /** Whether there is a session of its own, which can be ended. */
  own = $state(false);
  failure = $state('');

  /** Uses the login link that the page was opened with, if it was. Says whether there is a user. */
  async begin(): Promise<boolean> {
    const token = /^#\/login\/([\w-]+)$/.exec(location.hash)?.[1];
    if (token) {
      // The token is spent: it must not stay in the history.
      history.replaceState(null, '', `${location.pathname}#/overview`);
      dispatchEvent(new HashChangeEvent('hashchange'));
      try {
        await send('ui/session', { method: 'POST', type: 'text/plain', body: token });
      } catch (error) {
        this.failure = text(error);
      }
    }
    return this.check();
  }

  async check(): Promise<boolean> {
    const me = await get<{ user: string; anonymous: boolean; session: boolean }>('ui/session');
    this.user = me.user;
    this.anonymous = me.anonymous;
    this.own = me.session && !me.anonymous;
    if (!me.anonymous) this.failure = '';
    return !me.anonymous;
  }

  async end() {
    await send('ui/session', { method: 'DELETE' });
    await this.check();
    live.reset();
  }
}

export const session = new Session();
