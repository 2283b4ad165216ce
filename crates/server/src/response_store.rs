//! Responses that clients may come back to: in memory, bounded, gone with the process.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use moesaic_protocol::{OutputItem, ResponseObject, ResponseStatus};
use serde_json::Value;
use tokio::task::AbortHandle;

use crate::auth::ClientKey;

/// The store. Holds JSON text, so that what is counted is what is held.
#[derive(Debug)]
pub struct ResponseStore {
    max_bytes: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<String, Entry>,
    /// Oldest first.
    order: VecDeque<String>,
    num_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    client: ClientKey,
    response: String,
    conversation: String,
    /// Of a response in the background.
    task: Option<AbortHandle>,
}

/// Bytes that an entry takes beside its text.
const OVERHEAD: usize = 512;

impl Entry {
    fn num_bytes(&self) -> usize {
        OVERHEAD + self.response.len() + self.conversation.len()
    }

    fn response(&self) -> ResponseObject {
        serde_json::from_str(&self.response).expect("written from the same type")
    }
}

fn json(response: &ResponseObject) -> String {
    serde_json::to_string(response).expect("wire types always serialise")
}

impl ResponseStore {
    /// Holds up to so many bytes; 0 for none at all.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, inner: Mutex::default() }
    }

    /// Keeps a response and the conversation up to its end, in the place of what was kept under its id. The oldest
    /// make room. The end of a response in the background counts only while its beginning is kept.
    pub fn put(&self, client: ClientKey, response: &ResponseObject, conversation: &[Value]) {
        let conversation = serde_json::to_string(conversation).expect("JSON always serialises");
        let entry = Entry { client, response: json(response), conversation, task: None };
        let mut inner = self.lock();
        if response.background && response.status != ResponseStatus::InProgress {
            match inner.entries.get_mut(&response.id) {
                // This very task is about to end: it must not be aborted for its own result.
                Some(begun) if begun.response().status == ResponseStatus::InProgress => begun.task = None,
                _ => return,
            }
        }
        inner.remove(&response.id);
        if entry.num_bytes() > self.max_bytes {
            return;
        }
        inner.num_bytes += entry.num_bytes();
        inner.entries.insert(response.id.clone(), entry);
        inner.order.push_back(response.id.clone());
        while inner.num_bytes > self.max_bytes {
            let oldest = inner.order.front().cloned().expect("bytes are held by entries");
            inner.remove(&oldest);
        }
    }

    /// Notes the task that generates a response, for its end to be possible.
    pub fn set_task(&self, id: &str, task: AbortHandle) {
        if let Some(entry) = self.lock().entries.get_mut(id) {
            entry.task = Some(task);
        }
    }

    /// A client's own response.
    pub fn get(&self, client: ClientKey, id: &str) -> Option<ResponseObject> {
        Some(self.lock().entry(client, id)?.response())
    }

    /// A client's own response and the conversation up to it.
    pub fn conversation(&self, client: ClientKey, id: &str) -> Option<(ResponseStatus, Vec<Value>)> {
        let inner = self.lock();
        let entry = inner.entry(client, id)?;
        let messages = serde_json::from_str(&entry.conversation).expect("written from the same type");
        Some((entry.response().status, messages))
    }

    /// An item of a client's own responses.
    pub fn item(&self, client: ClientKey, id: &str) -> Option<OutputItem> {
        let inner = self.lock();
        let own = inner.entries.values().filter(|entry| entry.client == client && entry.response.contains(id));
        own.flat_map(|entry| entry.response().output).find(|item| {
            let (OutputItem::Reasoning { id: own, .. }
            | OutputItem::Message { id: own, .. }
            | OutputItem::FunctionCall { id: own, .. }) = item;
            own == id
        })
    }

    /// Forgets a client's own response, and ends it if it is still being generated. Whether there was one.
    pub fn delete(&self, client: ClientKey, id: &str) -> bool {
        let mut inner = self.lock();
        let exists = inner.entry(client, id).is_some();
        if exists {
            inner.remove(id);
        }
        exists
    }

    /// Ends a client's own response if it is still being generated in the background.
    pub fn cancel(&self, client: ClientKey, id: &str) -> Option<ResponseObject> {
        let mut inner = self.lock();
        let mut response = inner.entry(client, id)?.response();
        if response.status == ResponseStatus::InProgress {
            response.status = ResponseStatus::Cancelled;
            let entry = inner.entries.get_mut(id)?;
            if let Some(task) = entry.task.take() {
                task.abort();
            }
            let before = entry.num_bytes();
            entry.response = json(&response);
            let after = entry.num_bytes();
            inner.num_bytes = inner.num_bytes - before + after;
        }
        Some(response)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds the lock")
    }
}

impl Inner {
    fn entry(&self, client: ClientKey, id: &str) -> Option<&Entry> {
        self.entries.get(id).filter(|entry| entry.client == client)
    }

    /// What nobody can come back to need not be generated.
    fn remove(&mut self, id: &str) {
        let Some(entry) = self.entries.remove(id) else { return };
        self.num_bytes -= entry.num_bytes();
        self.order.retain(|other| other != id);
        if let Some(task) = entry.task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(id: &str) -> ResponseObject {
        ResponseObject { id: id.to_owned(), ..ResponseObject::default() }
    }

    #[test]
    fn the_oldest_make_room_and_tenants_do_not_meet() {
        let (ann, bob) = (ClientKey(Some([1; 32])), ClientKey(Some([2; 32])));
        let one = json(&response("resp_0")).len() + OVERHEAD + 2;
        let store = ResponseStore::new(3 * one + one / 2);
        for index in 0..5 {
            store.put(ann, &response(&format!("resp_{index}")), &[]);
            assert!(store.lock().num_bytes <= store.max_bytes);
        }
        let found: Vec<bool> = (0..5).map(|index| store.get(ann, &format!("resp_{index}")).is_some()).collect();
        assert_eq!(found, [false, false, true, true, true]);
        assert!(store.get(bob, "resp_4").is_none() && !store.delete(bob, "resp_4"));
        assert!(store.cancel(bob, "resp_4").is_none() && store.conversation(bob, "resp_4").is_none());
        store.put(ann, &response("resp_4"), &[]);
        assert!(store.delete(ann, "resp_4") && !store.delete(ann, "resp_4"));
        assert_eq!(store.lock().num_bytes, 2 * one);
        let too_large = vec![Value::from("x".repeat(10 * one))];
        store.put(ann, &response("resp_9"), &too_large);
        assert!(store.get(ann, "resp_9").is_none() && store.get(ann, "resp_3").is_some());
    }
}
